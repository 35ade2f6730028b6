// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Collects the results of rsvm-bench, one JSON object a line among other output, into an array
//! and a plot: `rsvm-bench-plot OUT.json OUT.svg < output`.

use anyhow::{ensure, Context, Result};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};
use std::{env, fs, io};

#[derive(Serialize, Deserialize)]
struct Figure {
    name: String,
    unit: String,
    rsvm: Option<f64>,
    peer: Option<f64>,
    memcpy: Option<f64>,
}

const ROW: u32 = 46;
const LABELS: i32 = 360;

/// A bar for each figure of each result, one below the other, all on one logarithmic scale.
fn plot(figures: &[Figure], path: &str) -> Result<()> {
    let bars = |f: &Figure| [(f.rsvm, &RED), (f.peer, &BLUE), (f.memcpy, &GREEN)];
    let most = figures
        .iter()
        .flat_map(|f| bars(f).map(|(value, _)| value.unwrap_or(1.0)))
        .fold(10.0, f64::max);
    let height = 90 + ROW * figures.len() as u32;
    let root = SVGBackend::new(path, (1100, height)).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw_text(
        "rsvm (red), test_hmm (blue), memcpy (green); logarithmic",
        &("sans-serif", 18).into_text_style(&root),
        (20, 16),
    )?;
    let width = |value: f64| (600.0 * value.max(1.0).ln() / most.ln()) as i32;
    for (row, figure) in figures.iter().enumerate() {
        let top = 60 + row as i32 * ROW as i32;
        let label = ("sans-serif", 13).into_text_style(&root);
        root.draw_text(
            &format!("{} [{}]", figure.name, figure.unit),
            &label,
            (20, top + 12),
        )?;
        for (bar, (value, color)) in bars(figure).into_iter().enumerate() {
            let Some(value) = value else { continue };
            let y = top + bar as i32 * 13;
            let end = LABELS + width(value);
            root.draw(&Rectangle::new(
                [(LABELS, y), (end, y + 11)],
                color.mix(0.7).filled(),
            ))?;
            root.draw_text(&format!("{value:.0}"), &label, (end + 6, y))?;
        }
    }
    root.present()?;
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    ensure!(
        args.len() == 2,
        "usage: rsvm-bench-plot OUT.json OUT.svg < output"
    );
    let mut figures: Vec<Figure> = Vec::new();
    for line in io::stdin().lines() {
        let line = line?;
        let line = line.trim();
        if line.starts_with('{') {
            figures.push(serde_json::from_str(line).with_context(|| line.to_owned())?);
        }
    }
    ensure!(!figures.is_empty(), "no result among the input");
    fs::write(&args[0], serde_json::to_string_pretty(&figures)? + "\n")?;
    plot(&figures, &args[1])
}
