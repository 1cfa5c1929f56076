//! A plan's files as a unified diff.

use similar::TextDiff;

use super::change::FileChange;

/// The change of a file as `diff -u` shows it.
pub fn unified_diff(change: &FileChange) -> String {
    let path = change.path.display();
    let old = change.old.as_ref().map(|state| state.content.text());
    let new = change.new.as_ref().map(super::Content::text);
    let name = |side: &str, there: bool| {
        if there {
            format!("{side}{path}")
        } else {
            "/dev/null".to_owned()
        }
    };
    TextDiff::from_lines(
        old.as_deref().unwrap_or_default(),
        new.as_deref().unwrap_or_default(),
    )
    .unified_diff()
    .context_radius(3)
    .header(&name("a", old.is_some()), &name("b", new.is_some()))
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tune::{Content, FileState};

    #[test]
    fn a_diff_shows_what_comes_and_goes() {
        let old = FileState {
            content: Content::new("a\nb\nno end"),
            mode: 0o644,
            user: 0,
            group: 0,
        };
        let mut change = FileChange {
            path: "/etc/x".into(),
            old: Some(old),
            new: Some(Content::new("a\nc\nno end")),
        };
        assert_eq!(
            unified_diff(&change),
            "--- a/etc/x\n+++ b/etc/x\n@@ -1,3 +1,3 @@\n a\n-b\n+c\n no end\n\\ No newline at end of file\n"
        );
        change.old = None;
        change.new = Some(Content::new("c\n"));
        assert_eq!(
            unified_diff(&change),
            "--- /dev/null\n+++ b/etc/x\n@@ -0,0 +1 @@\n+c\n"
        );
    }
}
