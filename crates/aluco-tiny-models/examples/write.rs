//! Writes one of the models: `cargo run -p aluco-tiny-models --example write -- KIND FILE`.

use std::{env, path::Path, process::ExitCode};

use aluco_tiny_models::Kind;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [kind, file] = arguments.as_slice() else {
        eprintln!(
            "usage: write KIND FILE, with one of these kinds: {}",
            Kind::ALL.map(Kind::name).join(", ")
        );
        return ExitCode::from(2);
    };
    let kind: Kind = match kind.parse() {
        Ok(kind) => kind,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = aluco_tiny_models::write(kind, Path::new(file)) {
        eprintln!("cannot write {file}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
