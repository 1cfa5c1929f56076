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

use crate::render::{ago, printable, say};

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
        writeln!(output, "\n* {}", printable(&instruction.title))?;
        if !instruction.text.is_empty() {
            writeln!(output, "  {}", printable(&instruction.text))?;
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
        let (rule, title, why) = (&left_out.rule, &left_out.title, &left_out.why);
        writeln!(output, "  {rule}  {}: {}", printable(title), printable(why))?;
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

fn reasons(reasons: &[Reason], output: &mut impl Write) -> io::Result<()> {
    for reason in reasons {
        writeln!(output, "  {}  {}", reason.rule, printable(&reason.text))?;
        for source in &reason.sources {
            let source = printable(source);
            writeln!(output, "          {}", Style::new().dim().apply_to(source))?;
        }
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
