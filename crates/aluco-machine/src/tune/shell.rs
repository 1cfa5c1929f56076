//! Changes as commands that a person can run, for users who are not root.

use std::fmt::Write as _;

use super::{
    change::{Action, Change, CommandChange, FileChange},
    runner::quoted,
};

/// The changes as lines of a POSIX shell, in order.
pub fn as_shell(changes: &[Change]) -> String {
    let mut script = String::new();
    for change in changes {
        let _ = writeln!(script, "# {}", change.title.replace('\n', " "));
        match &change.action {
            Action::File(file) => write_file(&mut script, file),
            Action::Command(CommandChange { command, .. }) | Action::Rebuild { command } => {
                let _ = writeln!(script, "sudo {command}");
            }
        }
    }
    script
}

fn write_file(script: &mut String, file: &FileChange) {
    let path = quoted(&file.path.to_string_lossy());
    let Some(new) = &file.new else {
        let _ = writeln!(script, "sudo rm {path}");
        return;
    };
    if file.old.is_none()
        && let Some(folder) = file.path.parent()
    {
        let folder = quoted(&folder.to_string_lossy());
        let _ = writeln!(script, "sudo mkdir -p {folder}");
    }
    let text = new.text();
    match text.strip_suffix('\n') {
        Some(lines) if lines.lines().all(|line| line != "EOF") => {
            let _ = writeln!(script, "sudo tee {path} >/dev/null <<'EOF'\n{lines}\nEOF");
        }
        _ => {
            let text = quoted(&text);
            let _ = writeln!(script, "printf %s {text} | sudo tee {path} >/dev/null");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::tune::{CommandLine, Content, Effect};

    fn change(action: Action) -> Change {
        Change {
            title: "a change".to_owned(),
            reasons: Vec::new(),
            effect: Effect::Now,
            checks: Vec::new(),
            action,
        }
    }

    #[test]
    fn a_shell_that_runs_the_lines_makes_the_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("gone"), "x").expect("a file");
        let contents = ["line $HOME `id`\n'quoted' \\ \"\n", "it's\nno end", "EOF\n"];
        let mut changes: Vec<Change> = contents
            .iter()
            .enumerate()
            .map(|(index, text)| {
                change(Action::File(FileChange {
                    path: at("new folder").join(index.to_string()),
                    old: None,
                    new: Some(Content::new(*text)),
                }))
            })
            .collect();
        changes.push(change(Action::File(FileChange {
            path: at("gone"),
            old: None,
            new: None,
        })));
        changes.push(change(Action::Rebuild {
            command: CommandLine::new(["touch", at("it's touched").to_str().expect("text")]),
        }));
        let script = as_shell(&changes).replace("sudo ", "");
        let status = Command::new("sh")
            .args(["-e", "-c", &script])
            .status()
            .expect("a shell");
        assert!(status.success(), "{script}");
        for (index, text) in contents.iter().enumerate() {
            let written = std::fs::read_to_string(at("new folder").join(index.to_string()));
            assert_eq!(written.expect("a file"), *text);
        }
        assert!(!at("gone").exists() && at("it's touched").exists());
    }
}
