//! Where the executable is, for tests of other crates.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::SystemTime,
};

use crate::Persona;

const NAME: &str = "aluco-fake-worker";

/// The fake worker's executable, in the target folder of the running test. It is built first if it is missing or older than its
/// sources, since cargo does not build the executables of a dependency.
///
/// # Panics
/// If the test does not run from a cargo target folder, or the build fails.
pub fn binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(find_or_build).clone()
}

/// Puts a copy of the fake worker into a folder under a name such as `aluco-worker-vulkan`, with a persona.
pub fn install(folder: &Path, name: &str, persona: &Persona) -> io::Result<PathBuf> {
    let path = folder.join(name);
    let source = binary();
    // A link where possible: a copy that another thread's fork still holds open for writing cannot be executed.
    if fs::hard_link(&source, &path).is_err() {
        fs::copy(&source, &path)?;
    }
    persona.write(&path)?;
    Ok(path)
}

fn find_or_build() -> PathBuf {
    let executable = std::env::current_exe().expect("a test knows its own executable");
    let folder = executable.parent().expect("an executable lies in a folder");
    let profile_folder = if folder.ends_with("deps") || folder.ends_with("examples") {
        folder.parent().expect("`deps` lies in a profile's folder")
    } else {
        folder
    };
    let binary = profile_folder.join(NAME);
    if is_fresh(&binary) {
        return binary;
    }
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let target_folder = profile_folder
        .parent()
        .expect("a profile's folder lies in the target folder");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", NAME, "--profile", profile])
        .arg("--target-dir")
        .arg(target_folder)
        .current_dir(crates_folder())
        .status();
    assert!(
        matches!(&status, Ok(status) if status.success()) && binary.exists(),
        "cannot build {NAME} into {}: {status:?}",
        profile_folder.display()
    );
    binary
}

/// True if the executable is newer than everything it is made of.
fn is_fresh(binary: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let Ok(built) = modified(binary) else {
        return false;
    };
    let crates = crates_folder();
    let newest = ["aluco-fake-worker/src", "aluco-proto/src"]
        .into_iter()
        .filter_map(|folder| fs::read_dir(crates.join(folder)).ok())
        .flatten()
        .flatten()
        .filter_map(|entry| modified(&entry.path()).ok())
        .max();
    newest.unwrap_or(SystemTime::UNIX_EPOCH) <= built
}

/// Where the crate that is tested lies, and this one. Cargo says it when it runs a test; what was compiled may come from another checkout that shares
/// the target folder.
fn crates_folder() -> PathBuf {
    let said = std::env::var_os("CARGO_MANIFEST_DIR");
    let tested = said.map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let crates = tested.parent().expect("a crate lies in `crates`");
    crates.to_owned()
}
