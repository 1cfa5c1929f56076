//! OpenAI's own Python package at the server.

use std::{path::PathBuf, process::Command};

use crate::served::{Served, model};

#[tokio::test]
#[ignore = "needs the worker, a model and the openai package: make test"]
async fn openais_own_package_drives_the_server() {
    let packages = std::env::var_os("ALUCO_TEST_PYTHON_PACKAGES")
        .map(PathBuf::from)
        .expect("ALUCO_TEST_PYTHON_PACKAGES is not set; run this by: make test");
    let served = Served::start(&["--context", "2048"]);
    let output = Command::new("python3")
        // From the folder of the package, where tests run.
        .arg("../../tests/python/openai_client.py")
        .env("PYTHONPATH", packages)
        .env("ALUCO_URL", &served.url)
        .env("NO_PROXY", "*")
        .env("ALUCO_MODEL", model())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{said}\n{errors}\n{}",
        served.log()
    );
    assert!(said.trim_end().ends_with("all checks passed"), "{said}");
}
