//! A small machine in a folder, a disk that fails on demand, and commands that edit the folder as the real ones would.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use aluco_machine::tune::{
    Action, Applied, Attributes, Change, Check, CommandChange, CommandLine, Content, Disk, Effect,
    Extent, FileChange, Host, KernelArguments, Progress, Ran, RealDisk, Reason, Runner, Tree,
    TuneError, Undone, apply, undo,
};

/// When the tests take place.
pub(crate) const NOW_S: u64 = 1_800_000_000;

/// All that a tree is: names, kinds, modes, owners, targets of links, contents.
pub(crate) fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, folder: &Path, picture: &mut BTreeMap<PathBuf, String>) {
        let Ok(entries) = fs::read_dir(folder) else {
            return;
        };
        for entry in entries {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("metadata");
            let what = if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).expect("a link").display())
            } else if metadata.is_file() {
                format!("{:?}", fs::read(&path).map(Content::new))
            } else {
                format!("{:?}", metadata.file_type())
            };
            let rights = format!("{:o} {}", metadata.mode(), metadata.uid());
            picture.insert(
                path.strip_prefix(root).expect("inside").to_owned(),
                format!("{rights} {what}"),
            );
            if metadata.is_dir() {
                walk(root, &path, picture);
            }
        }
    }
    let mut picture = BTreeMap::new();
    walk(root, root, &mut picture);
    picture
}

/// The file system itself, but nobody waits until things are on the medium: these tests would, thousands of times.
pub(crate) struct QuickDisk;

impl Disk for QuickDisk {
    fn write_new(&self, path: &Path, bytes: &[u8], attributes: Attributes<'_>) -> io::Result<()> {
        RealDisk.write_new(path, bytes, attributes)
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        RealDisk.append(path, bytes)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path).map(drop)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_file(path)
    }
    fn create_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        RealDisk.create_folder(path, mode)
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_folder(path)
    }
}

/// What a disk does at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// That step fails, later ones do not.
    Once,
    /// That step and all later ones fail, as if the process had been killed.
    Dead,
    /// As [`Fault::Dead`], but what that step writes is written by half.
    Torn,
}

/// Fails at one of its steps.
pub(crate) struct FaultyDisk {
    pub(crate) steps: Cell<usize>,
    at: usize,
    fault: Fault,
}

impl FaultyDisk {
    pub(crate) fn new(at: usize, fault: Fault) -> Self {
        Self {
            steps: Cell::new(0),
            at,
            fault,
        }
    }

    /// Whether the process counts as killed.
    pub(crate) fn is_dead(&self) -> bool {
        self.fault != Fault::Once && self.steps.get() > self.at
    }

    /// Counts a step of a command as well.
    pub(crate) fn step(&self) -> io::Result<()> {
        self.torn().map(|_| ())
    }

    /// Whether this step is the torn one.
    fn torn(&self) -> io::Result<bool> {
        let step = self.steps.replace(self.steps.get() + 1);
        let failed = || io::Error::other("injected");
        match self.fault {
            Fault::Torn if step == self.at => Ok(true),
            Fault::Once if step == self.at => Err(failed()),
            Fault::Dead | Fault::Torn if step >= self.at => Err(failed()),
            _ => Ok(false),
        }
    }
}

impl Disk for FaultyDisk {
    fn write_new(&self, path: &Path, bytes: &[u8], attributes: Attributes<'_>) -> io::Result<()> {
        if self.torn()? {
            QuickDisk.write_new(path, &bytes[..bytes.len() / 2], attributes)?;
            return Err(io::Error::other("injected"));
        }
        QuickDisk.write_new(path, bytes, attributes)
    }
    fn append(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.torn()? {
            QuickDisk.append(path, &bytes[..bytes.len() / 2])?;
            return Err(io::Error::other("injected"));
        }
        QuickDisk.append(path, bytes)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        QuickDisk.sync(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        QuickDisk.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        QuickDisk.remove_file(path)
    }
    fn create_folder(&self, path: &Path, mode: u32) -> io::Result<()> {
        self.step()?;
        QuickDisk.create_folder(path, mode)
    }
    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        QuickDisk.remove_folder(path)
    }
}

/// Edits the folder as `grubby`, `rpm-ostree kargs`, `usermod`, `gpasswd` and `systemctl` edit a machine; other commands are only
/// remembered.
pub(crate) struct FakeCommands<'a> {
    pub(crate) root: PathBuf,
    pub(crate) ran: Vec<String>,
    /// Fails like the disk, after the command's work when it dies.
    pub(crate) faults: Option<&'a FaultyDisk>,
}

impl<'a> FakeCommands<'a> {
    pub(crate) fn new(root: &Path, faults: Option<&'a FaultyDisk>) -> Self {
        Self {
            root: root.to_owned(),
            ran: Vec::new(),
            faults,
        }
    }

    fn edit_entries(&self, edit: impl Fn(&mut KernelArguments)) {
        for entry in fs::read_dir(self.root.join("boot/loader/entries"))
            .into_iter()
            .flatten()
        {
            let path = entry.expect("an entry").path();
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let lines: Vec<String> = text
                .lines()
                .map(|line| match line.strip_prefix("options ") {
                    // The real ones also squeeze white space.
                    Some(options) => {
                        let words: Vec<&str> = options.split_whitespace().collect();
                        let mut arguments = KernelArguments::parse(&words.join(" "));
                        edit(&mut arguments);
                        format!("options {}", arguments.text())
                    }
                    None => line.to_owned(),
                })
                .collect();
            fs::write(&path, lines.join("\n") + "\n").expect("an entry");
        }
    }

    fn edit_group(&self, group: &str, edit: impl Fn(&mut Vec<String>)) {
        let path = self.root.join("etc/group");
        let text = fs::read_to_string(&path).expect("groups");
        let mut out = String::new();
        for line in text.lines() {
            let mut fields: Vec<String> = line.split(':').map(str::to_owned).collect();
            if fields[0] == group && fields.len() == 4 {
                let mut members: Vec<String> = fields[3]
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect();
                edit(&mut members);
                fields[3] = members.join(",");
            }
            out.push_str(&fields.join(":"));
            out.push('\n');
        }
        fs::write(path, out).expect("groups");
    }

    fn work(&self, words: &[&str]) {
        match words {
            ["grubby", _, changes @ ..] => {
                for change in changes {
                    let (what, arguments) = change.split_once('=').expect("an option");
                    for argument in arguments.split_whitespace() {
                        let (name, value) = KernelArguments::split(argument);
                        match what {
                            "--args" => self.edit_entries(|line| line.set(argument)),
                            _ => self.edit_entries(|line| line.remove(name, value)),
                        }
                    }
                }
            }
            ["rpm-ostree", "kargs", changes @ ..] => {
                for change in changes {
                    let (what, argument) = change.split_once('=').expect("an option");
                    let (name, value) = KernelArguments::split(argument);
                    match what {
                        "--append-if-missing" => self.edit_entries(|line| line.set(argument)),
                        _ => self.edit_entries(|line| line.remove(name, value)),
                    }
                }
            }
            ["tuned-adm", "profile", profile] => {
                let folder = self.root.join("etc/tuned");
                if folder.is_dir() {
                    fs::write(folder.join("active_profile"), format!("{profile}\n"))
                        .expect("a profile");
                }
            }
            ["usermod", "-aG", group, user] => {
                self.edit_group(group, |members| members.push((*user).to_owned()));
            }
            ["gpasswd", "-d", user, group] => {
                self.edit_group(group, |members| members.retain(|name| name != user));
            }
            ["systemctl", "mask", units @ ..] => {
                for unit in units {
                    let link = self.root.join("etc/systemd/system").join(unit);
                    fs::create_dir_all(link.parent().expect("a folder")).expect("a folder");
                    symlink("/dev/null", link).expect("a link");
                }
            }
            ["systemctl", "unmask", units @ ..] => {
                for unit in units {
                    let _ = fs::remove_file(self.root.join("etc/systemd/system").join(unit));
                }
            }
            _ => {}
        }
    }
}

impl Runner for FakeCommands<'_> {
    fn run(&mut self, command: &CommandLine) -> io::Result<Ran> {
        if self.faults.is_some_and(FaultyDisk::is_dead) {
            return Err(io::Error::other("killed"));
        }
        let failed = self.faults.is_some_and(|faults| faults.step().is_err());
        // One that fails has done its work by then, which is the worse case.
        self.ran.push(command.to_string());
        let words: Vec<&str> = command.words().iter().map(String::as_str).collect();
        self.work(&words);
        Ok(if failed {
            Ran::Failed("injected".to_owned())
        } else {
            Ran::Done
        })
    }
}

/// A machine in a folder.
pub(crate) struct Machine {
    pub(crate) folder: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let machine = Self {
            folder: tempfile::tempdir().expect("a folder"),
        };
        machine.put("proc/sys/kernel/random/boot_id", "first\n", 0o444);
        machine.put("proc/cmdline", "root=/dev/x quiet\n", 0o444);
        machine.put(
            "boot/loader/entries/a.conf",
            "title A\noptions root=/dev/x  quiet\n",
            0o600,
        );
        machine.put("etc/default/real-grub", "GRUB=1\nno end of line", 0o640);
        machine.put("etc/modprobe.d/old.conf", b"options \xff\n", 0o644);
        machine.put("etc/group", "root:x:0:\nrender:x:105:bert\n", 0o644);
        symlink("real-grub", machine.folder.path().join("etc/default/grub")).expect("a link");
        machine
    }

    pub(crate) fn put(&self, path: &str, bytes: impl AsRef<[u8]>, mode: u32) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        // Only root could write into one that may only be read.
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).expect("a file");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
    }

    pub(crate) fn tree(&self) -> Tree {
        Tree::new(self.folder.path()).expect("a tree")
    }

    pub(crate) fn picture(&self) -> BTreeMap<PathBuf, String> {
        picture(self.folder.path())
    }

    /// A change of a file as it is now.
    pub(crate) fn file(&self, path: &str, new: Option<&str>) -> Change {
        let old = self.tree().state(Path::new(path)).expect("a state");
        change(
            path,
            Action::File(FileChange {
                path: path.into(),
                old,
                new: new.map(Content::new),
            }),
        )
    }

    /// One change of every kind.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let mut kernel = change(
            "kernel argument",
            Action::Command(CommandChange {
                command: CommandLine::new(["grubby", "--update-kernel=ALL", "--args=x=1"]),
                undo: CommandLine::new(["grubby", "--update-kernel=ALL", "--remove-args=x=1"]),
                touches: vec![
                    "/boot/loader/entries/*.conf".into(),
                    "/etc/kernel/cmdline".into(),
                ],
            }),
        );
        kernel.effect = Effect::Reboot;
        kernel.checks = vec![Check::KernelArgument {
            argument: "x=1".to_owned(),
        }];
        vec![
            self.file("/etc/default/grub", Some("GRUB=2\n")),
            self.file(
                "/etc/sysctl.d/sub/60-aluco.conf",
                Some("vm.swappiness=10\n"),
            ),
            self.file("/etc/modprobe.d/old.conf", None),
            kernel,
            change(
                "group",
                Action::Command(CommandChange {
                    command: CommandLine::new(["usermod", "-aG", "render", "anna"]),
                    undo: CommandLine::new(["gpasswd", "-d", "anna", "render"]),
                    touches: vec!["/etc/group".into()],
                }),
            ),
            change(
                "initramfs",
                Action::Rebuild {
                    command: CommandLine::new(["dracut", "-f"]),
                },
            ),
        ]
    }

    pub(crate) fn apply(&self, changes: &[Change]) -> Result<Applied, TuneError> {
        self.apply_with(
            changes,
            &QuickDisk,
            &mut FakeCommands::new(self.folder.path(), None),
        )
    }

    pub(crate) fn apply_with(
        &self,
        changes: &[Change],
        disk: &dyn Disk,
        runner: &mut dyn Runner,
    ) -> Result<Applied, TuneError> {
        with_host(&self.tree(), disk, runner, |host| apply(host, changes))
    }

    pub(crate) fn undo(&self, extent: Extent, force: bool) -> Result<Undone, TuneError> {
        let mut runner = FakeCommands::new(self.folder.path(), None);
        self.undo_with(extent, force, &QuickDisk, &mut runner)
    }

    pub(crate) fn undo_with(
        &self,
        extent: Extent,
        force: bool,
        disk: &dyn Disk,
        runner: &mut dyn Runner,
    ) -> Result<Undone, TuneError> {
        with_host(&self.tree(), disk, runner, |host| undo(host, extent, force))
    }
}

pub(crate) fn with_host<T>(
    tree: &Tree,
    disk: &dyn Disk,
    runner: &mut dyn Runner,
    work: impl FnOnce(&mut Host<'_>) -> T,
) -> T {
    let mut host = Host {
        tree,
        disk,
        runner,
        now_s: NOW_S,
        interrupted: &|| false,
        progress: &mut |_: Progress<'_>| {},
    };
    work(&mut host)
}

pub(crate) fn change(title: &str, action: Action) -> Change {
    Change {
        title: title.to_owned(),
        reasons: vec![Reason {
            rule: "TST-01".to_owned(),
            text: "a test asks for it".to_owned(),
            sources: Vec::new(),
        }],
        effect: Effect::Now,
        checks: Vec::new(),
        action,
    }
}
