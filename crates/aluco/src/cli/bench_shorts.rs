//! llama-bench's short flags of several letters, which no usual parser knows: `-ub 512` becomes `--ubatch-size 512`.

use std::ffi::OsString;

const SHORTS: [(&str, &str); 6] = [
    ("-ub", "--ubatch-size"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-fa", "--flash-attn"),
    ("-ngl", "--n-gpu-layers"),
    ("-pg", "--prompt-gen"),
];

/// Replaces the short flags in a command line whose command is `bench`; leaves every other one alone.
pub(crate) fn expand(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = None;
    let mut index = 1;
    while let Some(argument) = arguments.get(index) {
        match argument.to_str() {
            Some("--config") => index += 1,
            Some(text) if text.starts_with('-') => {}
            _ => {
                command = Some(index);
                break;
            }
        }
        index += 1;
    }
    let Some(command) = command.filter(|index| arguments[*index] == "bench") else {
        return arguments;
    };
    for argument in &mut arguments[command + 1..] {
        if argument == "--" {
            break;
        }
        if let Some((_, long)) = SHORTS.iter().find(|(short, _)| *argument == *short) {
            *argument = OsString::from(long);
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(line: &str) -> String {
        let arguments = expand(line.split(' ').map(OsString::from));
        arguments.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn only_the_flags_of_bench_are_replaced() {
        assert_eq!(
            expanded("aluco bench m -ub 128 -fa 1 -p 5"),
            "aluco bench m --ubatch-size 128 --flash-attn 1 -p 5"
        );
        assert_eq!(
            expanded("aluco --config bench bench -ngl 0"),
            "aluco --config bench bench --n-gpu-layers 0"
        );
        assert_eq!(expanded("aluco run m -fa"), "aluco run m -fa");
        assert_eq!(expanded("aluco bench m -- -fa"), "aluco bench m -- -fa");
        assert_eq!(expanded("aluco"), "aluco");
    }
}
