// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The Rust structures are those of the C headers: a C program prints sizes,
//! offsets and numbers, and they are compared.

use rsvm::ffi::FaultInfo;
use rsvm::uapi::{self, Ioctl};
use rsvm::Stats;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

struct Check {
    expression: String,
    expected: u64,
}

/// Compiles a C program that prints `expression` for each check, runs it, and
/// compares what it prints.
fn compare(name: &str, includes: &str, checks: &[Check]) {
    let mut source =
        format!("#include <stddef.h>\n#include <stdio.h>\n{includes}\nint main(void) {{\n");
    for check in checks {
        writeln!(
            source,
            "printf(\"%llu\\n\", (unsigned long long)({}));",
            check.expression
        )
        .unwrap();
    }
    source += "return 0; }\n";
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (c, program) = (dir.join(format!("{name}.c")), dir.join(name));
    std::fs::write(&c, source).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let status = Command::new("cc")
        .arg("-I")
        .arg(root.join("include"))
        .arg("-I")
        .arg(root.join("../../../include/uapi/drm"))
        .args(["-isystem", "/usr/include/drm", "-o"])
        .args([&program, &c])
        .status()
        .expect("a C compiler");
    assert!(status.success(), "{} does not compile", c.display());
    let output = Command::new(&program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(printed.len(), checks.len());
    for (check, printed) in checks.iter().zip(printed) {
        assert_eq!(printed, check.expected, "{}", check.expression);
    }
}

macro_rules! same {
    ($checks:ident, $c:literal, $rust:ty, [$($field:ident),*]) => {
        $checks.push(Check {
            expression: format!("sizeof({})", $c),
            expected: size_of::<$rust>() as u64,
        });
        $($checks.push(Check {
            expression: format!("offsetof({}, {})", $c, stringify!($field).trim_start_matches("r#")),
            expected: std::mem::offset_of!($rust, $field) as u64,
        });)*
    };
}

fn constant(expression: &str, expected: u32) -> Check {
    Check {
        expression: expression.into(),
        expected: expected.into(),
    }
}

#[test]
fn uapi_structures_and_numbers() {
    let mut c = Vec::new();
    same!(c, "struct drm_rsvm_query", uapi::Query, [param, pad, value]);
    same!(
        c,
        "struct drm_rsvm_vm_create",
        uapi::VmCreate,
        [flags, vm_id]
    );
    same!(
        c,
        "struct drm_rsvm_vm_destroy",
        uapi::VmDestroy,
        [vm_id, pad]
    );
    same!(
        c,
        "struct drm_rsvm_queue_create",
        uapi::QueueCreate,
        [vm_id, flags, queue_id, pad]
    );
    same!(
        c,
        "struct drm_rsvm_queue_destroy",
        uapi::QueueDestroy,
        [queue_id, pad]
    );
    same!(
        c,
        "struct drm_rsvm_exec",
        uapi::Exec,
        [
            queue_id,
            flags,
            push,
            num_dwords,
            pad,
            fence_addr,
            fence_value
        ]
    );
    same!(
        c,
        "struct drm_rsvm_wait_user_fence",
        uapi::WaitUserFence,
        [
            queue_id,
            op,
            addr,
            value,
            mask,
            deadline_ns,
            fault_addr,
            fault_reason,
            fault_access
        ]
    );
    same!(
        c,
        "struct drm_rsvm_event_open",
        uapi::EventOpen,
        [vm_id, flags, mask, fd]
    );
    same!(
        c,
        "struct drm_rsvm_svm_set_attr",
        uapi::SvmSetAttr,
        [vm_id, flags, addr, len, attrs, count, stride]
    );
    same!(
        c,
        "struct drm_rsvm_svm_get_attr",
        uapi::SvmGetAttr,
        [
            vm_id,
            flags,
            addr,
            len,
            attrs,
            pages,
            count,
            stride,
            same_len,
            system,
            vram,
            mapped_read,
            mapped_write
        ]
    );
    same!(
        c,
        "struct drm_rsvm_svm_migrate",
        uapi::SvmMigrate,
        [
            vm_id,
            flags,
            location,
            num_ranges,
            ranges,
            fence_addr,
            fence_value
        ]
    );
    same!(
        c,
        "struct drm_rsvm_svm_attr",
        uapi::SvmAttr,
        [r#type, pad, value]
    );
    same!(c, "struct drm_rsvm_svm_range", uapi::SvmRange, [addr, len]);
    event_layout(&mut c, "struct drm_rsvm_event");
    c.extend([
        constant("DRM_IOCTL_RSVM_QUERY", uapi::Query::NUMBER),
        constant("DRM_IOCTL_RSVM_VM_CREATE", uapi::VmCreate::NUMBER),
        constant("DRM_IOCTL_RSVM_VM_DESTROY", uapi::VmDestroy::NUMBER),
        constant("DRM_IOCTL_RSVM_QUEUE_CREATE", uapi::QueueCreate::NUMBER),
        constant("DRM_IOCTL_RSVM_QUEUE_DESTROY", uapi::QueueDestroy::NUMBER),
        constant("DRM_IOCTL_RSVM_EXEC", uapi::Exec::NUMBER),
        constant(
            "DRM_IOCTL_RSVM_WAIT_USER_FENCE",
            uapi::WaitUserFence::NUMBER,
        ),
        constant("DRM_IOCTL_RSVM_EVENT_OPEN", uapi::EventOpen::NUMBER),
        constant("DRM_IOCTL_RSVM_SVM_SET_ATTR", uapi::SvmSetAttr::NUMBER),
        constant("DRM_IOCTL_RSVM_SVM_GET_ATTR", uapi::SvmGetAttr::NUMBER),
        constant("DRM_IOCTL_RSVM_SVM_MIGRATE", uapi::SvmMigrate::NUMBER),
        constant("DRM_RSVM_EVENT_MIGRATE", uapi::EVENT_MIGRATE),
        constant("DRM_RSVM_EVENT_EVICT", uapi::EVENT_EVICT),
        constant("DRM_RSVM_EVENT_THRASH", uapi::EVENT_THRASH),
        constant(
            "DRM_RSVM_SVM_LOCATION_SYSTEM",
            rsvm::Location::System as u32,
        ),
        constant("DRM_RSVM_SVM_LOCATION_VRAM", rsvm::Location::Vram as u32),
        constant(
            "DRM_RSVM_SVM_ATTR_GRANULARITY",
            rsvm::Attribute::Granularity as u32,
        ),
        constant(
            "DRM_RSVM_SVM_ATTR_NO_MIGRATE",
            rsvm::Attribute::NoMigrate as u32,
        ),
        constant("DRM_RSVM_FENCE_GE", uapi::FENCE_GE),
        constant("DRM_RSVM_EVENT_FAULT", uapi::EVENT_FAULT),
        constant("DRM_RSVM_EVENT_FATAL_FAULT", uapi::EVENT_FATAL_FAULT),
        constant(
            "DRM_RSVM_PARAM_COMPUTE_CLASS",
            rsvm::Param::ComputeClass as u32,
        ),
        constant("DRM_RSVM_PARAM_VRAM_FREE", rsvm::Param::VramFree as u32),
        constant(
            "DRM_RSVM_SVM_ATOMIC_SYSTEM",
            rsvm::AtomicMode::System as u32,
        ),
        constant("DRM_RSVM_SVM_ATOMIC_VRAM", rsvm::AtomicMode::Vram as u32),
        constant(
            "DRM_RSVM_SVM_ATOMIC_DEVICE",
            rsvm::AtomicMode::Device as u32,
        ),
        constant("DRM_RSVM_FAULT_NO_MAPPING", rsvm::Reason::NoMapping.into()),
        constant("DRM_RSVM_FAULT_PROTECTION", rsvm::Reason::Protection.into()),
        constant("DRM_RSVM_FAULT_ATOMIC", rsvm::Reason::Atomic.into()),
        constant("DRM_RSVM_FAULT_NO_MEMORY", rsvm::Reason::NoMemory.into()),
        constant("DRM_RSVM_FAULT_IO", rsvm::Reason::Io.into()),
        constant(
            "DRM_RSVM_FAULT_BAD_ADDRESS",
            rsvm::Reason::BadAddress.into(),
        ),
        constant("DRM_RSVM_FAULT_EXCEPTION", rsvm::Reason::Exception.into()),
        constant("DRM_RSVM_FAULT_METHOD", rsvm::Reason::Method.into()),
        constant("DRM_RSVM_FAULT_EXITED", rsvm::Reason::Exited.into()),
        constant("DRM_RSVM_FAULT_KILLED", rsvm::Reason::Killed.into()),
        constant("DRM_RSVM_ACCESS_READ", rsvm::Access::Read.into()),
        constant("DRM_RSVM_ACCESS_WRITE", rsvm::Access::Write.into()),
        constant("DRM_RSVM_ACCESS_ATOMIC", rsvm::Access::Atomic.into()),
        constant("DRM_RSVM_ACCESS_EXECUTE", rsvm::Access::Execute.into()),
    ]);
    compare("uapi_layout", "#include \"rsvm_drm.h\"", &c);
}

fn event_layout(c: &mut Vec<Check>, name: &str) {
    let mut field = |field: &str, offset: usize| {
        c.push(Check {
            expression: format!("offsetof({name}, {field})"),
            expected: offset as u64,
        });
    };
    macro_rules! fields {
        ($($f:ident),*) => { $(field(stringify!($f), std::mem::offset_of!(uapi::Event, $f));)* };
    }
    field("type", std::mem::offset_of!(uapi::Event, r#type));
    fields!(size, time_ns, addr, len, queue_id, access, reason, dropped);
    c.push(Check {
        expression: format!("sizeof({name})"),
        expected: size_of::<uapi::Event>() as u64,
    });
}

#[test]
fn library_structures() {
    let mut c = Vec::new();
    same!(
        c,
        "struct rsvm_fault",
        FaultInfo,
        [addr, queue_id, access, reason, pad]
    );
    same!(
        c,
        "struct rsvm_stats",
        Stats,
        [
            faults,
            batches,
            pages,
            map_4k,
            map_64k,
            map_2m,
            invalidations,
            replays,
            retries,
            demotions,
            prefetched,
            migrations,
            to_vram,
            zeroed,
            recalled,
            thrashed,
            grabs,
            revoked
        ]
    );
    same!(
        c,
        "struct rsvm_residency",
        rsvm::Residency,
        [system, vram, mapped_read, mapped_write]
    );
    event_layout(&mut c, "struct rsvm_event");
    compare("library_layout", "#include \"rsvm.h\"", &c);
}
