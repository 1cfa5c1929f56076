//! `aluco tune`: changes the machine's settings, and takes them back.

mod show;

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use aluco_machine::{
    doctor,
    facts::{Facts, Request},
    root::Root,
    tune::{
        self, Action, Choices, Extent, GttChoice, Host, NoRunner, Plan, Progress, RealDisk,
        RealRunner, Runner, Tree, TuneError, Verdict,
    },
};

use crate::{
    cli::{
        Answer, TuneAction, TuneApplyArgs, TuneArgs, TuneChoiceArgs, TunePlanArgs, TuneStatusArgs,
        TuneUndoArgs,
    },
    failure::{Failure, Outcome, Status},
    render::{print_json, printable, say},
    signals::Signals,
};

/// Runs the command.
pub(crate) fn run(args: &TuneArgs) -> Outcome {
    match &args.action {
        None => plan(&args.plan),
        Some(TuneAction::Plan(args)) => plan(args),
        Some(TuneAction::Apply(args)) => apply(args),
        Some(TuneAction::Status(args)) => status(args),
        Some(TuneAction::Undo(args)) => undo(args),
    }
}

fn plan(args: &TunePlanArgs) -> Outcome {
    let tree = tree(args.choices.root.as_deref())?;
    let plan = make(&args.choices, &tree)?;
    if args.json {
        print_json(&plan)?;
    } else {
        show::plan(&plan, &mut io::stdout().lock())?;
        if !plan.changes.is_empty() {
            say("nothing was changed; `sudo aluco tune apply` makes the changes");
        }
    }
    Ok(Status::Done)
}

fn apply(args: &TuneApplyArgs) -> Outcome {
    let tree = tree(args.choices.root.as_deref())?;
    let plan = make(&args.choices, &tree)?;
    show::plan(&plan, &mut io::stdout().lock())?;
    if plan.changes.is_empty() {
        return Ok(Status::Done);
    }
    if tree.is_live() && !rustix::process::geteuid().is_root() {
        say("this takes root's rights: run `sudo aluco tune apply`, or run these yourself:");
        io::stdout().write_all(tune::as_shell(&plan.changes).as_bytes())?;
        return Ok(Status::Failed);
    }
    if !args.yes && !confirmed("make these changes")? {
        say("nothing was changed");
        return Ok(Status::Failed);
    }
    let applied = with_host(&tree, |host| tune::apply(host, &plan.changes))?;
    let count = applied.changes;
    say(&format!(
        "made {count} changes; `aluco tune undo` takes them back"
    ));
    show::left_out(&applied.left_out);
    if plan.needs_reboot() {
        say("reboot, and then let `aluco tune status` tell whether the kernel took the values");
    }
    if plan.needs_login() {
        say("log out and in again, so that groups and limits hold");
    }
    Ok(Status::Done)
}

fn status(args: &TuneStatusArgs) -> Outcome {
    let tree = tree(args.root.as_deref())?;
    let applies = tune::status(&tree).map_err(|error| failure(&error))?;
    if args.json {
        print_json(&applies)?;
        return Ok(Status::Done);
    }
    show::status(&applies, SystemTime::now(), &mut io::stdout().lock())?;
    let refused = applies
        .iter()
        .flat_map(|apply| &apply.changes)
        .any(|change| matches!(change.verdict, Verdict::NotTaken { .. }));
    Ok(if refused {
        Status::Warnings
    } else {
        Status::Done
    })
}

fn undo(args: &TuneUndoArgs) -> Outcome {
    let tree = tree(args.root.as_deref())?;
    let applies = tune::status(&tree).map_err(|error| failure(&error))?;
    let extent = if args.all { Extent::All } else { Extent::Last };
    let concerned = match extent {
        Extent::All => &applies[..],
        Extent::Last => &applies[applies.len().saturating_sub(1)..],
    };
    if concerned.is_empty() {
        // Also what a crash left before the first change.
        with_host(&tree, |host| tune::undo(host, extent, args.force))?;
        say("there is nothing to take back");
        return Ok(Status::Done);
    }
    show::status(concerned, SystemTime::now(), &mut io::stdout().lock())?;
    if !args.yes && !confirmed("take this back")? {
        say("nothing was changed");
        return Ok(Status::Failed);
    }
    let undone = with_host(&tree, |host| tune::undo(host, extent, args.force))?;
    say(&format!("took {} changes back", undone.changes));
    show::left_out(&undone.left_out);
    Ok(Status::Done)
}

fn tree(root: Option<&Path>) -> Outcome<Tree> {
    let root = root.unwrap_or(Path::new("/"));
    if root.is_file() {
        let what = format!(
            "{} is a file; only a folder's files can be changed",
            root.display()
        );
        let advice = format!(
            "`aluco doctor --root {}` tells what to do about that machine",
            root.display()
        );
        return Err(Failure::usage(what).advise(advice));
    }
    Tree::new(root).map_err(|error| failure(&error))
}

fn make(args: &TuneChoiceArgs, tree: &Tree) -> Outcome<Plan> {
    let choices = Choices {
        gtt: match (args.gtt, args.reserve) {
            (Some(bytes), _) => GttChoice::Size(bytes),
            (None, Some(bytes)) => GttChoice::Reserve(bytes),
            (None, None) => GttChoice::Usual,
        },
        npu: args.npu.map(|answer| answer == Answer::Yes),
        only: args.only.clone(),
        skip: args.skip.clone(),
        hints: args.hints,
        user: args.user.clone().or_else(|| user(tree)),
    };
    for rule in choices.only.iter().chain(&choices.skip) {
        if doctor::Catalogue::embedded()
            .rules()
            .iter()
            .all(|known| !known.id.eq_ignore_ascii_case(rule))
        {
            return Err(Failure::usage(format!("there is no rule {rule}"))
                .advise("`aluco doctor` shows the rules that found something"));
        }
    }
    let root = if tree.is_live() {
        Root::live()
    } else {
        Root::open(tree.root())
    };
    let root = root.map_err(|error| Failure::new(error.to_string()))?;
    let facts = Facts::collect(&root, &Request::default());
    let report = doctor::examine(&facts);
    Plan::make(&facts, &report.findings, tree, &choices).map_err(|error| failure(&error))
}

/// Who called us: behind sudo, not root.
fn user(tree: &Tree) -> Option<String> {
    if !tree.is_live() {
        return None;
    }
    ["SUDO_USER", "USER"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|user| !user.is_empty() && user != "root")
}

/// Works on the machine; Ctrl-C puts back what was done so far.
fn with_host<T>(
    tree: &Tree,
    work: impl FnOnce(&mut Host<'_>) -> Result<T, TuneError>,
) -> Outcome<T> {
    static INTERRUPTED: AtomicBool = AtomicBool::new(false);
    let runtime = super::run::current_thread()?;
    let mut signals = {
        let _guard = runtime.enter();
        Signals::new()?
    };
    // It ends with the process.
    thread::spawn(move || {
        runtime.block_on(signals.next());
        INTERRUPTED.store(true, Ordering::Relaxed);
        say("interrupted; putting everything back");
    });
    let mut real = RealRunner;
    let mut none = NoRunner;
    let runner: &mut dyn Runner = if tree.is_live() { &mut real } else { &mut none };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut host = Host {
        tree,
        disk: &RealDisk,
        runner,
        now_s: now.unwrap_or_default().as_secs(),
        interrupted: &|| INTERRUPTED.load(Ordering::Relaxed),
        progress: &mut tell,
    };
    work(&mut host).map_err(|error| failure(&error))
}

fn tell(progress: Progress<'_>) {
    let text = match progress {
        Progress::Making(change) => match &change.action {
            Action::File(file) => format!("writing {}", file.path.display()),
            _ => return,
        },
        Progress::TakingBack(change) => format!("taking back: {}", change.title),
        Progress::Running(command) => format!("running {command}"),
        Progress::LeftOut(_) => return,
        Progress::Tolerated(command, why) => {
            format!("{command} failed, which is passed over: {why}")
        }
    };
    say(&printable(&text));
}

fn confirmed(what: &str) -> Outcome<bool> {
    if !io::stdin().is_terminal() {
        return Err(
            Failure::usage(format!("whether to {what} cannot be asked here"))
                .advise("say it with --yes"),
        );
    }
    let mut output = io::stderr().lock();
    write!(output, "{what}? [y/N] ")?;
    output.flush()?;
    let mut answer = String::new();
    io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(format!("cannot read the answer: {error}")))?;
    let answer = answer.trim().to_ascii_lowercase();
    Ok(matches!(answer.as_str(), "y" | "yes"))
}

fn failure(error: &TuneError) -> Failure {
    let failure = Failure::new(error.to_string());
    match error {
        TuneError::ChangedSince { .. } => failure
            .advise("look at the files; `--force` overwrites them with what was there before"),
        _ if error.is_permission() => failure.advise("this takes root's rights: use sudo"),
        _ => failure,
    }
}
