//! A machine that is made up, for tests that must not depend on what else takes memory on this one.

use std::{fs, io, path::Path};

/// Has the machine whose files lie in `root` tell that it has so many MiB of memory, of which so many are available. Nothing presses on it. Who
/// reads it meanwhile sees the old figures or the new ones.
///
/// # Errors
/// If a folder or the file cannot be written.
pub fn set_memory(root: &Path, total_mib: u64, available_mib: u64) -> io::Result<()> {
    let proc = root.join("proc");
    fs::create_dir_all(&proc)?;
    let text = format!(
        "MemTotal: {} kB\nMemAvailable: {} kB\n",
        total_mib << 10,
        available_mib << 10
    );
    let new = proc.join("meminfo.new");
    fs::write(&new, text)?;
    fs::rename(new, proc.join("meminfo"))
}
