//! Writes a model once more in full precision, beside it: `cargo run -p aluco-tiny-models --example full_precision -- MODEL`.

use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model] = arguments.as_slice() else {
        eprintln!("usage: full_precision MODEL");
        return ExitCode::from(2);
    };
    match aluco_tiny_models::in_full_precision(Path::new(model)) {
        Ok(path) => println!("{}", path.display()),
        Err(error) => {
            eprintln!("{model}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
