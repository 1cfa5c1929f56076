//! Compiles the C++ guard through which exceptions of llama.cpp become error values, and the check of the CPU that comes before
//! everything else. For ROCm it names the libraries that llama.cpp's HIP backend needs, which its build script leaves out.

use std::path::{Path, PathBuf};

/// Instruction sets that the compiler may have been told to use, by their macros.
const INSTRUCTION_SETS: [&str; 9] = [
    "AVX",
    "AVX2",
    "FMA",
    "BMI2",
    "AVX512F",
    "AVX512BW",
    "AVX512VBMI",
    "AVX512VNNI",
    "AVX512BF16",
];

fn main() {
    for file in ["guard.cpp", "early_cpu_check.c"] {
        println!("cargo:rerun-if-changed=src/ffi/{file}");
    }
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/ffi/guard.cpp")
        .compile("aluco_guard");
    early_cpu_check();
    if std::env::var_os("CARGO_FEATURE_ROCM").is_some() {
        link_rocm();
    }
}

fn early_cpu_check() {
    let mut build = cc::Build::new();
    build.file("src/ffi/early_cpu_check.c").opt_level(0);
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        for set in INSTRUCTION_SETS.iter().filter(|set| is_enabled(set)) {
            build.define(&format!("ALUCO_NEEDS_{set}"), None);
        }
        // Behind the flags of the environment, so that it wins.
        build.flag("-march=x86-64");
    }
    build.compile("aluco_early_cpu_check");
}

/// Asks the compiler, with the flags of the environment, what it was told.
fn is_enabled(set: &str) -> bool {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let question = out.join(format!("has_{set}.c"));
    let text = format!("#ifdef __{set}__\nyes_it_has\n#endif\n");
    std::fs::write(&question, text).expect("OUT_DIR can be written to");
    let answer = cc::Build::new().file(&question).expand();
    String::from_utf8_lossy(&answer).contains("yes_it_has")
}

fn link_rocm() {
    println!("cargo:rerun-if-env-changed=ROCM_PATH");
    let rocm = std::env::var("ROCM_PATH").unwrap_or_else(|_| "/opt/rocm".to_owned());
    let folder = Path::new(&rocm).join("lib");
    println!("cargo:rustc-link-search=native={}", folder.display());
    for library in ["amdhip64", "rocblas", "hipblas"] {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
}
