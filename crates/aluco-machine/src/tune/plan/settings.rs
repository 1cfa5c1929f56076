//! Settings that hold without a reboot: sysctls, limits, udev rules, power profiles, groups, masked units.

use std::{fmt::Write as _, path::Path};

use super::{
    Choices,
    draft::Draft,
    wishes::{Wish, Wishes},
};
use crate::{
    facts::Facts,
    tune::{
        Action, Change, Check, CommandChange, CommandLine, Effect, Reason, TuneError,
        runner::quoted,
    },
};

const SYSCTL: &str = "/etc/sysctl.d/60-aluco.conf";
const LIMITS: &str = "/etc/security/limits.d/60-aluco.conf";
const TMPFILES: &str = "/etc/tmpfiles.d/60-aluco.conf";
const PLATFORM_PROFILE: &str = "/sys/firmware/acpi/platform_profile";
const TUNED_PROFILE: &str = "/etc/tuned/active_profile";
const HEAD: &str = "# Written by `aluco tune`; `aluco tune undo` takes it back.\n";

/// Adds to the draft all that is no matter of the boot loader or of modules.
pub(super) fn plan(
    draft: &mut Draft<'_>,
    facts: &Facts,
    choices: &Choices,
    wishes: &Wishes,
) -> Result<(), TuneError> {
    sysctls(draft, wishes)?;
    limits(draft, wishes)?;
    udev(draft, wishes)?;
    if let Some(wish) = &wishes.tuned_profile {
        tuned(draft, facts, wish);
    }
    // TuneD sets the firmware's profile along with its own.
    if let (Some(wish), None) = (&wishes.platform_profile, &wishes.tuned_profile) {
        platform_profile(draft, facts, wish)?;
    }
    for (group, wish) in &wishes.groups {
        group_member(draft, choices, group, &wish.reasons);
    }
    mask(draft, wishes);
    Ok(())
}

fn sysctls(draft: &mut Draft<'_>, wishes: &Wishes) -> Result<(), TuneError> {
    let mut text = draft.text(Path::new(SYSCTL))?.unwrap_or_default();
    let mut titles = Vec::new();
    let mut reasons = Vec::new();
    let mut checks = Vec::new();
    let mut undo = vec!["sysctl".to_owned(), "-w".to_owned()];
    for (key, wish) in &wishes.sysctls {
        let line = format!("{key} = {}", wish.what);
        let is_of_key = |line: &&str| {
            line.split('=')
                .next()
                .is_some_and(|name| name.trim() == key)
        };
        if text.lines().filter(is_of_key).eq([line.as_str()]) {
            continue;
        }
        let others: Vec<&str> = text.lines().filter(|line| !is_of_key(line)).collect();
        text = others.iter().fold(String::new(), |mut text, line| {
            let _ = writeln!(text, "{line}");
            text
        });
        if text.is_empty() {
            text.push_str(HEAD);
        }
        let _ = writeln!(text, "{line}");
        titles.push(format!("{key} = {}", wish.what));
        reasons.extend(wish.reasons.iter().cloned());
        checks.push(Check::Sysctl {
            key: key.clone(),
            value: wish.what.clone(),
        });
        let now = draft
            .tree
            .text(&format!("/proc/sys/{}", key.replace('.', "/")));
        if let Some(now) = now {
            undo.push(format!("{key}={}", now.trim()));
        }
    }
    if titles.is_empty() {
        return Ok(());
    }
    let title = format!("set {}", titles.join(", "));
    draft.file(
        Path::new(SYSCTL),
        Some(text),
        &title,
        reasons.clone(),
        Effect::Now,
        checks,
    )?;
    let undo = if undo.len() > 2 {
        CommandLine::new(undo)
    } else {
        CommandLine::new(["sysctl", "--system"])
    };
    draft.changes.push(command(
        "let the running kernel take them",
        reasons,
        Vec::new(),
        CommandLine::new(["sysctl", "-p", SYSCTL]),
        undo,
        &[],
    ));
    Ok(())
}

fn limits(draft: &mut Draft<'_>, wishes: &Wishes) -> Result<(), TuneError> {
    if wishes.limits.is_empty() {
        return Ok(());
    }
    let mut text = draft.text(Path::new(LIMITS))?.unwrap_or_default();
    let mut titles = Vec::new();
    let mut reasons = Vec::new();
    for ((domain, item), wish) in &wishes.limits {
        for kind in ["soft", "hard"] {
            let line = format!("{domain} {kind} {item} {}", wish.what);
            if text.lines().any(|known| known == line) {
                continue;
            }
            if text.is_empty() {
                text.push_str(HEAD);
            }
            let _ = writeln!(text, "{line}");
        }
        titles.push(format!("{item} {} for {domain}", wish.what));
        reasons.extend(wish.reasons.iter().cloned());
    }
    let title = format!("set the limit {}", titles.join(", "));
    draft.file(
        Path::new(LIMITS),
        Some(text),
        &title,
        reasons,
        Effect::Login,
        Vec::new(),
    )
}

fn udev(draft: &mut Draft<'_>, wishes: &Wishes) -> Result<(), TuneError> {
    let before = draft.changes.len();
    for (path, wish) in &wishes.udev {
        let (new, title) = match &wish.what {
            Some(rule) => (
                Some(format!("{HEAD}{}\n", rule.trim_end())),
                "add a rule for device nodes",
            ),
            None => (None, "remove a rule for device nodes"),
        };
        let reasons = wish.reasons.clone();
        draft.file(
            Path::new(path),
            new,
            title,
            reasons,
            Effect::Now,
            Vec::new(),
        )?;
    }
    if draft.changes.len() > before {
        draft.rebuild(
            ["udevadm", "control", "--reload"],
            "let udev read its rules again",
        );
        draft.rebuild(["udevadm", "trigger"], "let udev go over the devices again");
    }
    Ok(())
}

fn tuned(draft: &mut Draft<'_>, facts: &Facts, wish: &Wish<String>) {
    let profile = wish.what.as_str();
    let active = draft.tree.text(TUNED_PROFILE);
    if active.is_some_and(|active| active.trim() == profile) {
        return;
    }
    let title = format!("switch TuneD to the profile {profile}");
    if !draft.tree.has_program("tuned-adm") {
        draft.instruct(
            &title,
            "install the package tuned, start it, and choose the profile",
            vec![
                "sudo systemctl enable --now tuned".to_owned(),
                format!("sudo tuned-adm profile {}", quoted(profile)),
            ],
            wish.reasons.clone(),
            false,
        );
        return;
    }
    let undo = match facts.power.tuned_profile.get() {
        Some(old) => CommandLine::new(["tuned-adm", "profile", old]),
        None => CommandLine::new(["tuned-adm", "off"]),
    };
    draft.changes.push(command(
        &title,
        wish.reasons.clone(),
        vec![Check::Line {
            path: TUNED_PROFILE.to_owned(),
            text: profile.to_owned(),
        }],
        CommandLine::new(["tuned-adm", "profile", profile]),
        undo,
        &[TUNED_PROFILE, "/etc/tuned/profile_mode"],
    ));
}

fn platform_profile(
    draft: &mut Draft<'_>,
    facts: &Facts,
    wish: &Wish<String>,
) -> Result<(), TuneError> {
    let profile = wish.what.as_str();
    let title = format!("set the firmware's power profile to {profile}");
    let check = Check::Line {
        path: PLATFORM_PROFILE.to_owned(),
        text: profile.to_owned(),
    };
    if let (true, Some(old)) = (
        draft.tree.has_program("powerprofilesctl"),
        facts.power.power_profile.get(),
    ) {
        // The daemon would set it back.
        if old != profile {
            draft.changes.push(command(
                &title,
                wish.reasons.clone(),
                vec![check],
                CommandLine::new(["powerprofilesctl", "set", profile]),
                CommandLine::new(["powerprofilesctl", "set", old]),
                &[],
            ));
        }
        return Ok(());
    }
    let line = format!("w {PLATFORM_PROFILE} - - - - {profile}\n");
    let before = draft.text(Path::new(TMPFILES))?.unwrap_or_default();
    if before.contains(&line) {
        return Ok(());
    }
    let text = if before.is_empty() {
        format!("{HEAD}{line}")
    } else {
        format!("{before}{line}")
    };
    draft.file(
        Path::new(TMPFILES),
        Some(text),
        &format!("{title} at every start"),
        wish.reasons.clone(),
        Effect::Now,
        vec![check.clone()],
    )?;
    let old = draft.tree.text(PLATFORM_PROFILE).unwrap_or_default();
    let old = match old.trim() {
        "" => "balanced",
        old => old,
    };
    let undo = format!("echo {} > {PLATFORM_PROFILE}", quoted(old));
    draft.changes.push(command(
        &title,
        wish.reasons.clone(),
        vec![check],
        CommandLine::new(["systemd-tmpfiles", "--create", TMPFILES]),
        CommandLine::new(["sh", "-c", &undo]),
        &[],
    ));
    Ok(())
}

fn group_member(draft: &mut Draft<'_>, choices: &Choices, group: &str, reasons: &[Reason]) {
    let groups = draft.tree.text("/etc/group").unwrap_or_default();
    let entry = groups
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&group));
    let Some(user) = choices.user.as_deref().filter(|user| *user != "root") else {
        draft.instruct(
            &format!("make your user a member of {group}"),
            "run this as the user who runs models, then log out and in again; or say --user NAME",
            vec![format!("sudo usermod -aG {} \"$USER\"", quoted(group))],
            reasons.to_vec(),
            false,
        );
        return;
    };
    let title = format!("make {user} a member of {group}");
    let Some(fields) = entry else {
        draft.instruct(
            &title,
            "the group is not in /etc/group; on an image system it must be copied there first",
            vec![
                format!("getent group {0} | sudo tee -a /etc/group", quoted(group)),
                format!("sudo usermod -aG {} {}", quoted(group), quoted(user)),
            ],
            reasons.to_vec(),
            false,
        );
        return;
    };
    let is_member = fields
        .get(3)
        .is_some_and(|members| members.split(',').any(|name| name.trim() == user));
    if is_member {
        return;
    }
    let mut change = command(
        &title,
        reasons.to_vec(),
        vec![Check::GroupMember {
            group: group.to_owned(),
            user: user.to_owned(),
        }],
        CommandLine::new(["usermod", "-aG", group, user]),
        CommandLine::new(["gpasswd", "-d", user, group]),
        &["/etc/group"],
    );
    change.effect = Effect::Login;
    draft.changes.push(change);
}

fn mask(draft: &mut Draft<'_>, wishes: &Wishes) {
    let mut units = Vec::new();
    let mut reasons = Vec::new();
    for (unit, wish) in &wishes.masked_units {
        let link = format!("/etc/systemd/system/{unit}");
        let target = draft.tree.resolve(Path::new(&link));
        if target.is_ok_and(|target| target == Path::new("/dev/null")) {
            continue;
        }
        units.push(unit.clone());
        for reason in &wish.reasons {
            if !reasons.contains(reason) {
                reasons.push(reason.clone());
            }
        }
    }
    if units.is_empty() {
        return;
    }
    let words = |verb: &str| {
        let head = ["systemctl", verb].map(str::to_owned);
        CommandLine::new(head.into_iter().chain(units.iter().cloned()))
    };
    let checks = units
        .iter()
        .map(|unit| Check::Masked { unit: unit.clone() })
        .collect();
    draft.changes.push(command(
        &format!("keep {} from being started", units.join(", ")),
        reasons,
        checks,
        words("mask"),
        words("unmask"),
        &[],
    ));
}

fn command(
    title: &str,
    reasons: Vec<Reason>,
    checks: Vec<Check>,
    command: CommandLine,
    undo: CommandLine,
    touches: &[&str],
) -> Change {
    Change {
        title: title.to_owned(),
        reasons,
        effect: Effect::Now,
        checks,
        action: Action::Command(CommandChange {
            command,
            undo,
            touches: touches.iter().map(Into::into).collect(),
        }),
    }
}
