// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `rsvm-vgpu`: the virtual GPU as a process for a VMM to connect to.

mod cli;

use clap::Parser;
use cli::Args;
use rsvm_vgpu::device::Device;
use rsvm_vgpu::transport::{serve, Msix};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::fs;
use std::io::{self, IsTerminal};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::EnvFilter;

/// Listens on `path`. A socket there that nobody listens on is left over from
/// a server that was killed, and is replaced.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    UnixListener::bind(path)
}

/// Writes the counters as one line of JSON, whole or not at all.
fn write_stats(path: &Path, device: &Device) -> io::Result<()> {
    let fields: Vec<String> = device
        .stats()
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    let part = path.with_extension("part");
    fs::write(&part, format!("{{{}}}\n", fields.join(",")))?;
    fs::rename(&part, path)
}

/// What has to happen however the process ends.
fn finish(args: &Args, device: &Device) {
    let _ = fs::remove_file(&args.socket);
    if let Some(path) = &args.stats {
        if let Err(err) = write_stats(path, device) {
            tracing::error!("cannot write {}: {err}", path.display());
        }
    }
}

/// SIGUSR1 pulls the device out of its slot; SIGTERM and SIGINT end the
/// process with its counters written.
fn handle_signals(args: Args, device: Arc<Device>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR1])?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if signal == SIGUSR1 {
                    device.remove();
                } else {
                    finish(&args, &device);
                    std::process::exit(0);
                }
            }
        })?;
    Ok(())
}

fn run(args: Args) -> io::Result<()> {
    let msix = Arc::new(Msix::default());
    let device = Device::new(args.config(), Arc::clone(&msix) as _)?;
    let listener = listen(&args.socket)
        .map_err(|err| io::Error::new(err.kind(), format!("{}: {err}", args.socket.display())))?;
    handle_signals(args.clone(), Arc::clone(&device))?;
    tracing::info!("listening on {}", args.socket.display());
    let end = serve(listener, &device, &msix, args.persist);
    finish(&args, &device);
    end
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = match EnvFilter::try_new(&args.log) {
        Ok(filter) => filter,
        Err(err) => {
            eprintln!("rsvm-vgpu: --log {}: {err}", args.log);
            return ExitCode::from(2);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("rsvm-vgpu: {err}");
            ExitCode::FAILURE
        }
    }
}
