//! Compiles the C++ guard through which exceptions of llama.cpp become error values.

fn main() {
    println!("cargo:rerun-if-changed=src/ffi/guard.cpp");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file("src/ffi/guard.cpp")
        .compile("aluco_guard");
}
