//! OpenAI's own Python package at the server.

use std::{path::PathBuf, process::Command};

use crate::served::{FULL_PRECISION, ONE_BY_ONE, Served, model_in_full_precision};

#[tokio::test]
#[ignore = "needs the worker, a model and the openai package: make test"]
async fn openais_own_package_drives_the_server() {
    let packages = std::env::var_os("ALUCO_TEST_PYTHON_PACKAGES")
        .map(PathBuf::from)
        .expect("ALUCO_TEST_PYTHON_PACKAGES is not set; run this by: make test");
    // In full precision an answer is the same whether its prompt was computed or stored, and whatever lies beside.
    let options = [&["--context", "2048"], &FULL_PRECISION[..], &ONE_BY_ONE].concat();
    let served = Served::start(&options);
    let output = Command::new("python3")
        // From the folder of the package, where tests run.
        .arg("../../tests/python/openai_client.py")
        .env("PYTHONPATH", packages)
        .env("ALUCO_URL", &served.url)
        .env("NO_PROXY", "*")
        .env("ALUCO_MODEL", model_in_full_precision())
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
