//! Flags that set configuration, made from the table of keys.

use std::marker::PhantomData;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::Error};

use crate::config::{Given, KEYS, Key, Part, Raw};

/// Which keys a command takes.
pub(crate) trait Selection {
    /// True if the command has a flag for it.
    fn takes(key: &Key) -> bool;
}

/// `aluco serve`: everything but the URL.
#[derive(Debug)]
pub(crate) struct Serving;

/// `aluco run`: how to reach a server, or how to load the model into its own.
#[derive(Debug)]
pub(crate) struct Running;

/// Commands that talk to a server.
#[derive(Debug)]
pub(crate) struct Client;

/// Commands that work on the model store.
#[derive(Debug)]
pub(crate) struct Storing;

/// `aluco cache`: where prompts are stored.
#[derive(Debug)]
pub(crate) struct Caching;

/// `aluco bench`: which worker, and which models; the rest has flags of its own, which take lists.
#[derive(Debug)]
pub(crate) struct Measuring;

impl Selection for Caching {
    fn takes(key: &Key) -> bool {
        key.name == "cache_dir"
    }
}

impl Selection for Measuring {
    fn takes(key: &Key) -> bool {
        key.part == Part::Store || matches!(key.name, "backend" | "worker")
    }
}

impl Selection for Serving {
    fn takes(key: &Key) -> bool {
        key.name != "url"
    }
}

impl Selection for Running {
    fn takes(key: &Key) -> bool {
        matches!(key.part, Part::Connection | Part::Engine)
    }
}

impl Selection for Client {
    fn takes(key: &Key) -> bool {
        key.part == Part::Connection
    }
}

impl Selection for Storing {
    fn takes(key: &Key) -> bool {
        key.part == Part::Store
    }
}

/// What the configuration flags of a command say.
#[derive(Debug)]
pub(crate) struct Overrides<S> {
    /// In the order of the table.
    pub(crate) given: Vec<Given>,
    selection: PhantomData<S>,
}

impl<S> Overrides<S> {
    /// True if a flag about this part was given.
    pub(crate) fn any_about(&self, part: Part) -> Option<&str> {
        self.given
            .iter()
            .find(|given| {
                KEYS.iter()
                    .any(|key| key.name == given.key && key.part == part)
            })
            .map(|given| given.flag.as_str())
    }
}

impl<S: Selection> Args for Overrides<S> {
    fn augment_args(mut command: Command) -> Command {
        for key in KEYS.iter().filter(|key| S::takes(key)) {
            let Some(flag) = key.flag() else { continue };
            let mut help = format!("{} [env: {}]", key.help, key.env);
            if S::takes(&KEYS[0]) && !key.aliases.is_empty() {
                help = format!(
                    "{} [env: {}, {}]",
                    key.help,
                    key.env,
                    key.aliases.join(", ")
                );
            }
            command = command.arg(
                Arg::new(key.name)
                    .long(flag)
                    .value_name(key.value_name)
                    .help(help)
                    .help_heading(key.part.heading())
                    .allow_hyphen_values(true)
                    .action(if key.repeated {
                        ArgAction::Append
                    } else {
                        ArgAction::Set
                    }),
            );
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Selection> FromArgMatches for Overrides<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given = Vec::new();
        for key in KEYS.iter().filter(|key| S::takes(key)) {
            let Some(flag) = key.flag() else { continue };
            let Some(values) = matches.get_many::<String>(key.name) else {
                continue;
            };
            let values: Vec<String> = values.cloned().collect();
            given.push(Given {
                key: key.name,
                flag: format!("--{flag}"),
                raw: if key.repeated {
                    Raw::List(values)
                } else {
                    Raw::Word(values.into_iter().next_back().unwrap_or_default())
                },
            });
        }
        Ok(Self {
            given,
            selection: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
