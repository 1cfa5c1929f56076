//! NixOS, whose settings are options of one configuration: everything is told, nothing is written.

use super::{
    Choices,
    draft::Draft,
    wishes::{ArgumentWish, Wish, Wishes},
};
use crate::tune::Reason;

/// Adds to the draft the options that fulfil the wishes.
pub(super) fn plan(draft: &mut Draft<'_>, choices: &Choices, wishes: &Wishes) {
    let mut told = Told::default();
    kernel(&mut told, wishes);
    modules(&mut told, wishes);
    for (key, wish) in &wishes.sysctls {
        let line = format!("boot.kernel.sysctl.{} = {};", text(key), text(&wish.what));
        told.line(line, wish);
    }
    for ((domain, item), wish) in &wishes.limits {
        let (domain, item, value) = (text(domain), text(item), text(&wish.what));
        told.line(
            format!(
                "security.pam.loginLimits = [ {{ domain = {domain}; type = \"-\"; item = {item}; value = {value}; }} ];"
            ),
            wish,
        );
    }
    for (path, wish) in &wishes.udev {
        told.line(
            match &wish.what {
                Some(rule) => format!("services.udev.extraRules = {};", text(rule)),
                None => format!("# take away what writes {path}"),
            },
            wish,
        );
    }
    if let Some(wish) = &wishes.tuned_profile {
        let profile = text(&wish.what);
        told.line("services.tuned.enable = true;".to_owned(), wish);
        told.line(
            format!("# after the rebuild: sudo tuned-adm profile {profile}"),
            wish,
        );
    }
    if let (Some(wish), None) = (&wishes.platform_profile, &wishes.tuned_profile) {
        let rule = format!(
            "w /sys/firmware/acpi/platform_profile - - - - {}",
            wish.what
        );
        told.line(
            format!("systemd.tmpfiles.rules = [ {} ];", text(&rule)),
            wish,
        );
    }
    let user = choices.user.as_deref().unwrap_or("YOU");
    for (group, wish) in &wishes.groups {
        let line = format!(
            "users.users.{}.extraGroups = [ {} ];",
            text(user),
            text(group)
        );
        told.line(line, wish);
    }
    for (unit, wish) in &wishes.masked_units {
        let (name, kind) = unit.rsplit_once('.').unwrap_or((unit, "service"));
        told.line(
            format!("systemd.{kind}s.{}.enable = false;", text(name)),
            wish,
        );
    }
    if !told.lines.is_empty() {
        draft.instruct(
            "change the system's configuration",
            "put this into it and run `sudo nixos-rebuild boot`; Aluco writes no files on NixOS",
            told.lines,
            told.reasons,
            told.needs_reboot,
        );
    }
}

#[derive(Default)]
struct Told {
    lines: Vec<String>,
    reasons: Vec<Reason>,
    needs_reboot: bool,
}

impl Told {
    fn line<T>(&mut self, line: String, wish: &Wish<T>) {
        self.lines.push(line);
        for reason in &wish.reasons {
            if !self.reasons.contains(reason) {
                self.reasons.push(reason.clone());
            }
        }
    }
}

fn kernel(told: &mut Told, wishes: &Wishes) {
    for wish in wishes.arguments.values() {
        let line = match &wish.what {
            ArgumentWish::Set(argument) => format!("boot.kernelParams = [ {} ];", text(argument)),
            ArgumentWish::Remove(name, None) => format!("# take {name} out of boot.kernelParams"),
            ArgumentWish::Remove(name, Some(value)) => {
                format!("# take {name}={value} out of boot.kernelParams")
            }
        };
        told.line(line, wish);
        told.needs_reboot = true;
    }
}

fn modules(told: &mut Told, wishes: &Wishes) {
    for ((module, option), wish) in &wishes.module_options {
        let line = match &wish.what {
            Some(value) => {
                let options = format!("options {module} {option}={value}");
                format!("boot.extraModprobeConfig = {};", text(&options))
            }
            None => format!("# take {option} of {module} out of boot.extraModprobeConfig"),
        };
        told.line(line, wish);
        told.needs_reboot = true;
    }
}

/// A string of the language of NixOS.
fn text(value: &str) -> String {
    let escaped = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace("${", "\\${")
        .replace('\n', "\\n");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_keep_their_quotes_and_dollars() {
        assert_eq!(text(r#"K=="${x}" \"#), r#""K==\"\${x}\" \\""#);
    }
}
