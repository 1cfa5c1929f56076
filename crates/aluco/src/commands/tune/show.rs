//! Plans and statuses for people.

use std::{
    io::{self, Write},
    time::{Duration, SystemTime},
};

use aluco_machine::tune::{
    Action, ApplyStatus, Change, ChangeStatus, CommandLine, Effect, FileStatus, Plan, Reason,
    Verdict, unified_diff,
};
use console::Style;

use crate::render::{LongWord, ago, printable, say, terminal_columns, wrapped};

const GIB: f64 = (1_u64 << 30) as f64;

/// Everything that a plan would do.
pub(super) fn plan(plan: &Plan, output: &mut impl Write) -> io::Result<()> {
    if let Some(gtt) = &plan.gtt {
        writeln!(
            output,
            "The GPU may have {:.1} of {:.1} GiB; {:.1} GiB are left to everything else.\n",
            gtt.gtt_bytes as f64 / GIB,
            gtt.total_bytes as f64 / GIB,
            gtt.reserve_bytes as f64 / GIB
        )?;
    }
    if plan.changes.is_empty() {
        writeln!(output, "There is nothing to change.")?;
    }
    for (at, change) in plan.changes.iter().enumerate() {
        if at > 0 {
            writeln!(output)?;
        }
        one_change(at + 1, change, output)?;
    }
    if !plan.instructions.is_empty() {
        writeln!(output, "\n{}", bold("By hand"))?;
    }
    for instruction in &plan.instructions {
        writeln!(output)?;
        hanging("* ", &instruction.title, output)?;
        if !instruction.text.is_empty() {
            hanging("  ", &instruction.text, output)?;
        }
        for line in &instruction.lines {
            writeln!(output, "      {}", printable(line))?;
        }
        reasons(&instruction.reasons, output)?;
    }
    if !plan.left_out.is_empty() {
        writeln!(output, "\n{}", bold("Left as it is"))?;
    }
    for left_out in &plan.left_out {
        let text = format!("{}: {}", left_out.title, left_out.why);
        paragraph(&left_out.rule, &text, output)?;
    }
    Ok(())
}

fn one_change(number: usize, change: &Change, output: &mut impl Write) -> io::Result<()> {
    let when = match change.effect {
        Effect::Now => "",
        Effect::Login => " (from the next login on)",
        Effect::Reboot => " (after a reboot)",
    };
    let title = printable(&change.title);
    writeln!(output, "{}{when}", bold(&format!("{number}. {title}")))?;
    reasons(&change.reasons, output)?;
    match &change.action {
        Action::File(file) => {
            for line in unified_diff(file).lines() {
                let style = match line.as_bytes().first() {
                    Some(b'+') => Style::new().green(),
                    Some(b'-') => Style::new().red(),
                    _ => Style::new().dim(),
                };
                writeln!(output, "  {}", style.apply_to(printable(line)))?;
            }
        }
        Action::Command(command) => {
            writeln!(output, "  $ {}", printable(&command.command.to_string()))?;
            let undo = format!("taken back by: {}", command.undo);
            writeln!(
                output,
                "    {}",
                Style::new().dim().apply_to(printable(&undo))
            )?;
        }
        Action::Rebuild { command } => {
            writeln!(output, "  $ {}", printable(&command.to_string()))?;
        }
    }
    Ok(())
}

/// Rule, reason and sources, indented below a change.
fn reasons(reasons: &[Reason], output: &mut impl Write) -> io::Result<()> {
    for reason in reasons {
        paragraph(&reason.rule, &reason.text, output)?;
        // Their addresses are in the doctor's explanation and in JSON.
        let names: Vec<&str> = reason
            .sources
            .iter()
            .map(|source| {
                source
                    .split_once(", http")
                    .map_or(source.as_str(), |(name, _)| name)
            })
            .collect();
        if !names.is_empty() {
            paragraph("", &names.join("; "), output)?;
        }
    }
    Ok(())
}

/// Writes a text below a change, with a head before it.
fn paragraph(head: &str, text: &str, output: &mut impl Write) -> io::Result<()> {
    hanging(&format!("  {head:<6}  "), text, output)
}

/// Writes a text broken at the terminal's width; its further lines stand below its first word.
fn hanging(label: &str, text: &str, output: &mut impl Write) -> io::Result<()> {
    let columns = terminal_columns().unwrap_or(100).max(40);
    let indent = console::measure_text_width(label);
    let mut label = label.to_owned();
    for line in wrapped(&printable(text), columns - indent, LongWord::Whole) {
        writeln!(output, "{label}{line}")?;
        label = " ".repeat(indent);
    }
    Ok(())
}

/// Commands that were not run.
pub(super) fn left_out(commands: &[CommandLine]) {
    if commands.is_empty() {
        return;
    }
    say("not run, because these files are not those of the running machine:");
    for command in commands {
        say(&format!("  {}", printable(&command.to_string())));
    }
}

/// What became of applies.
pub(super) fn status(
    applies: &[ApplyStatus],
    now: SystemTime,
    output: &mut impl Write,
) -> io::Result<()> {
    if applies.is_empty() {
        return writeln!(output, "Aluco has changed nothing on this machine.");
    }
    for (at, apply) in applies.iter().enumerate() {
        if at > 0 {
            writeln!(output)?;
        }
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(apply.at_s);
        let head = format!("Changed {} by aluco {}", ago(then, now), apply.version);
        writeln!(output, "{}", bold(&head))?;
        if apply.unfinished {
            writeln!(
                output,
                "  broken off; `aluco tune undo` takes back the rest"
            )?;
        }
        for change in &apply.changes {
            one_status(change, output)?;
        }
    }
    Ok(())
}

fn one_status(change: &ChangeStatus, output: &mut impl Write) -> io::Result<()> {
    let (word, style, why) = match &change.verdict {
        Verdict::Active => ("active", Style::new().green(), None),
        Verdict::WaitsForReboot => ("waits for reboot", Style::new().yellow(), None),
        Verdict::NotTaken { why } => ("NOT TAKEN", Style::new().red(), Some(why)),
        Verdict::NotChecked { why } => ("not checked", Style::new().dim(), Some(why)),
    };
    let word = style.apply_to(format!("{word:<16}"));
    writeln!(output, "  {word}  {}", printable(&change.title))?;
    let more =
        |output: &mut dyn Write, text: &str| writeln!(output, "  {:16}    {}", "", printable(text));
    if let Some(why) = why {
        more(output, why)?;
    }
    if let (Some(path), Some(file)) = (&change.path, &change.file) {
        let told = match file {
            FileStatus::AsWritten => "is as it was written",
            FileStatus::Superseded => "was changed again by a later apply",
            FileStatus::ChangedSince => "was changed by somebody since",
            FileStatus::Missing => "was removed by somebody",
            FileStatus::NotWritten => "is as it was before",
        };
        more(output, &format!("{} {told}", path.display()))?;
    }
    if let Some(command) = &change.command {
        more(output, &command.to_string())?;
    }
    Ok(())
}

fn bold(text: &str) -> console::StyledObject<&str> {
    Style::new().bold().apply_to(text)
}

#[cfg(test)]
mod tests {
    use aluco_machine::tune::{CommandChange, Content, FileChange, Instruction, LeftOut};

    use super::*;

    fn reason() -> Reason {
        Reason {
            rule: "MEM-02".to_owned(),
            text: "the GPU may use 62.8 GiB of 125.6 GiB; 113 GiB would leave the system 12.6 GiB of it".to_owned(),
            sources: vec!["AMD (2026), https://rocm.docs.amd.com/".to_owned(), "kyuz0 (2026-08)".to_owned()],
        }
    }

    #[test]
    fn a_plan_is_told_with_its_reasons_and_what_is_left() {
        let change = |title: &str, effect, action| Change {
            title: title.to_owned(),
            reasons: vec![reason()],
            effect,
            checks: Vec::new(),
            action,
        };
        let told = Plan {
            distribution: None,
            boot_loader: None,
            gtt: None,
            changes: vec![
                change(
                    "start the kernel with ttm.pages_limit=29622272",
                    Effect::Reboot,
                    Action::File(FileChange {
                        path: "/etc/kernel/cmdline".into(),
                        old: None,
                        new: Some(Content::new("ttm.pages_limit=29622272\n")),
                    }),
                ),
                change(
                    "make anna a member of render",
                    Effect::Login,
                    Action::Command(CommandChange {
                        command: CommandLine::new(["usermod", "-aG", "render", "anna"]),
                        undo: CommandLine::new(["gpasswd", "-d", "anna", "render"]),
                        touches: Vec::new(),
                    }),
                ),
            ],
            instructions: vec![Instruction {
                title: "set UMA frame buffer size to 512 MB".to_owned(),
                text: "in the firmware's setup".to_owned(),
                lines: vec!["a line".to_owned()],
                reasons: Vec::new(),
                needs_reboot: true,
            }],
            left_out: vec![LeftOut {
                rule: "PWR-01".to_owned(),
                title: "TuneD is not set for accelerators".to_owned(),
                why: "only a hint\u{1b}[2J".to_owned(),
            }],
        };
        let mut output = Vec::new();
        plan(&told, &mut output).expect("written");
        insta::assert_snapshot!(String::from_utf8(output).expect("text"));
    }

    #[test]
    fn a_status_says_what_the_kernel_took_and_why_not() {
        let change = |title: &str, verdict| ChangeStatus {
            title: title.to_owned(),
            rules: Vec::new(),
            path: Some("/etc/x".into()),
            file: Some(FileStatus::AsWritten),
            command: None,
            verdict,
        };
        let applies = [ApplyStatus {
            at_s: 1_000_000_000,
            version: "0.1.0".to_owned(),
            unfinished: true,
            changes: vec![
                change("one", Verdict::Active),
                change("two", Verdict::WaitsForReboot),
                change(
                    "three",
                    Verdict::NotTaken {
                        why: "the kernel was started without x=1".to_owned(),
                    },
                ),
            ],
        }];
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_180);
        let mut output = Vec::new();
        status(&applies, now, &mut output).expect("written");
        insta::assert_snapshot!(String::from_utf8(output).expect("text"));
    }
}
