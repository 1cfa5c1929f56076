//! Puts the layers on top of each other. Pure but for reading files: the environment is passed in.

use std::{
    io,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{Config, Environment, KEYS, Origin, Raw, Settings, keys, ollama, spelling::nearest};
use crate::failure::{Failure, Outcome};

const SYSTEM_FILE: &str = "/etc/aluco/config.toml";

/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A value given by a flag.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// Name of the key.
    pub(crate) key: &'static str,
    /// The flag, with its dashes.
    pub(crate) flag: String,
    /// Its value or values.
    pub(crate) raw: Raw,
}

/// The configuration files, whether they exist or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Files {
    /// The machine's.
    pub(crate) system: PathBuf,
    /// The user's; it wins.
    pub(crate) user: PathBuf,
    /// The user's was named by a flag or a variable and has to exist.
    user_is_named: bool,
}

impl Files {
    /// The files of this environment; `named` is what the flag `--config` says.
    pub(crate) fn find(environment: &Environment, named: Option<&Path>) -> Self {
        let named = named
            .map(Path::to_owned)
            .or_else(|| environment.get("ALUCO_CONFIG").map(PathBuf::from));
        Self {
            system: PathBuf::from(SYSTEM_FILE),
            user_is_named: named.is_some(),
            user: named.unwrap_or_else(|| {
                environment
                    .folder("XDG_CONFIG_HOME", ".config")
                    .join("aluco/config.toml")
            }),
        }
    }
}

/// Reads all layers.
pub(crate) fn load(environment: &Environment, files: &Files, flags: &[Given]) -> Outcome<Config> {
    let mut settings = Settings::for_home(environment.home());
    settings.models_folder = environment
        .folder("XDG_DATA_HOME", ".local/share")
        .join("aluco/models");
    settings.measurements_folder = environment
        .folder("XDG_DATA_HOME", ".local/share")
        .join("aluco/measurements");
    settings.hub_cache = environment
        .folder("XDG_CACHE_HOME", ".cache")
        .join("huggingface/hub");
    settings.cache_folder = environment
        .folder("XDG_CACHE_HOME", ".cache")
        .join("aluco/prefix");
    let mut stack = Stack {
        home: environment.get("HOME").map(PathBuf::from),
        settings,
        origins: vec![Origin::Default; KEYS.len()],
    };
    stack.add_file(&files.system, false)?;
    stack.add_file(&files.user, files.user_is_named)?;
    stack.add_hub_token(environment);
    stack.add_environment(environment)?;
    for given in flags {
        stack
            .set(given.key, &given.raw, Origin::Flag(given.flag.clone()))
            .map_err(|reason| Failure::usage(format!("{}: {reason}", given.flag)))?;
    }
    Ok(Config {
        settings: stack.settings,
        origins: stack.origins,
    })
}

struct Stack {
    /// The user's folder, if it is known.
    home: Option<PathBuf>,
    settings: Settings,
    origins: Vec<Origin>,
}

impl Stack {
    fn set(&mut self, name: &str, raw: &Raw, origin: Origin) -> Result<(), String> {
        let index = keys::index_of(name).expect("the key is in the table");
        let key = &KEYS[index];
        if key.path {
            let raw = self.located(raw, matches!(origin, Origin::Flag(_)))?;
            (key.set)(&mut self.settings, &raw)?;
        } else {
            (key.set)(&mut self.settings, raw)?;
        }
        self.origins[index] = origin;
        Ok(())
    }

    /// A path with the home folder in place of `~`. Only a flag may be relative to the folder in which it is typed.
    fn located(&self, raw: &Raw, may_be_relative: bool) -> Result<Raw, String> {
        let path = raw.path()?;
        if path.is_absolute() {
            return Ok(raw.clone());
        }
        let shown = path.display();
        if let Ok(rest) = path.strip_prefix("~") {
            let home = self
                .home
                .as_ref()
                .ok_or_else(|| format!("HOME is not set, so \"{shown}\" leads nowhere"))?;
            return Ok(Raw::Word(home.join(rest).to_string_lossy().into_owned()));
        }
        if path.to_string_lossy().starts_with('~') {
            return Err(format!(
                "write the path in full instead of \"{shown}\": only shells know the folders of other users"
            ));
        }
        if may_be_relative {
            return Ok(raw.clone());
        }
        Err(format!(
            "expected a whole path, from / or ~/ on, found \"{shown}\""
        ))
    }

    fn add_file(&mut self, path: &Path, has_to_exist: bool) -> Outcome<()> {
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !has_to_exist => return Ok(()),
            Err(error) => {
                let reason = match error.kind() {
                    io::ErrorKind::NotFound => "there is no such file".to_owned(),
                    io::ErrorKind::InvalidData => "it is not text (UTF-8)".to_owned(),
                    _ => error.to_string(),
                };
                let failure = Failure::new(format!(
                    "cannot read the configuration {}: {reason}",
                    path.display()
                ));
                return Err(if has_to_exist {
                    failure.advise("It is named by --config or ALUCO_CONFIG.")
                } else {
                    failure
                });
            }
        };
        let at = |offset: usize| format!("{}:{}", path.display(), line_of(&text, offset));
        let table = DeTable::parse(&text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            Failure::new(format!("{}: {}", at(offset), error.message()))
                .advise("The file is TOML: one `key = value` a line, text in quotes.")
        })?;
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            if keys::index_of(name).is_none() {
                let advice = match nearest(name) {
                    Some(near) => format!("Did you mean `{near}`? `aluco config keys` lists all."),
                    None => "`aluco config keys` lists all keys.".to_owned(),
                };
                return Err(Failure::new(format!(
                    "{}: unknown key `{name}`",
                    at(key.span().start)
                ))
                .advise(advice));
            }
            let origin = Origin::File {
                path: path.to_owned(),
                line: Some(line_of(&text, key.span().start)),
            };
            self.set(name, &value.get_ref().into(), origin)
                .map_err(|reason| {
                    Failure::new(format!("{}: `{name}`: {reason}", at(value.span().start)))
                })?;
        }
        Ok(())
    }

    /// The token that `hf auth login` leaves in a file. A file that cannot be read is as good as none: most downloads need no token.
    fn add_hub_token(&mut self, environment: &Environment) {
        let in_home = |path: &str| match Path::new(path).strip_prefix("~") {
            Ok(rest) => environment.home().join(rest),
            Err(_) => PathBuf::from(path),
        };
        let path = environment.get("HF_TOKEN_PATH").map_or_else(
            || {
                environment
                    .get("HF_HOME")
                    .map_or_else(
                        || {
                            environment
                                .folder("XDG_CACHE_HOME", ".cache")
                                .join("huggingface")
                        },
                        in_home,
                    )
                    .join("token")
            },
            in_home,
        );
        if self.settings.hub_token.is_none()
            && let Ok(token) = read_bounded(&path)
            && !token.trim().is_empty()
        {
            let _ = self.set(
                "hub_token",
                &Raw::Text(token),
                Origin::File { path, line: None },
            );
        }
    }

    fn add_environment(&mut self, environment: &Environment) -> Outcome<()> {
        let aliases = ollama::VARIABLES.iter().filter_map(|variable| {
            let value = environment.get(variable)?;
            Some((*variable, ollama::translate(variable, value)))
        });
        let own = KEYS.iter().filter_map(|key| {
            let value = environment.get(key.env)?;
            Some((key.env, vec![(key.name, Raw::Word(value.to_owned()))]))
        });
        for (variable, values) in aliases.chain(own) {
            for (name, raw) in values {
                self.set(name, &raw, Origin::Environment(variable.to_owned()))
                    .map_err(|reason| {
                        Failure::new(format!("environment variable {variable}: {reason}"))
                    })?;
            }
        }
        Ok(())
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other("it is over 1 MiB"));
    }
    Ok(text)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text
        .char_indices()
        .take_while(|(at, _)| *at < offset)
        .filter(|(_, letter)| *letter == '\n')
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        }

        fn files(&self, system: &str, user: &str) -> Files {
            Files {
                system: self.file("system.toml", system),
                user: self.file("user.toml", user),
                user_is_named: true,
            }
        }
    }

    fn flag(key: &'static str, value: &str) -> Given {
        Given {
            key,
            flag: format!("--{key}"),
            raw: Raw::Word(value.to_owned()),
        }
    }

    #[test]
    fn each_layer_covers_the_one_below() {
        let folder = Folder::new();
        let layers = [
            ("default", "", "", None, None, None, 13313),
            ("system", "port = 1", "", None, None, None, 1),
            ("user", "port = 1", "port = 2", None, None, None, 2),
            ("ollama", "port = 1", "port = 2", Some(":3"), None, None, 3),
            (
                "env",
                "port = 1",
                "port = 2",
                Some(":3"),
                Some("4"),
                None,
                4,
            ),
            (
                "flag",
                "port = 1",
                "port = 2",
                Some(":3"),
                Some("4"),
                Some("5"),
                5,
            ),
        ];
        for (name, system, user, alias, own, given, port) in layers {
            let mut environment = Environment::from([("HOME", "/home/owl")]);
            for (variable, value) in [("OLLAMA_HOST", alias), ("ALUCO_PORT", own)] {
                if let Some(value) = value {
                    environment.set(variable, value);
                }
            }
            let flags: Vec<Given> = given.iter().map(|value| flag("port", value)).collect();
            let config = load(&environment, &folder.files(system, user), &flags).unwrap();
            assert_eq!(config.settings.port, port, "{name}");
            let origin = config.origin("port").to_string();
            let expected = match name {
                "default" => "default",
                "system" => "system.toml:1",
                "user" => "user.toml:1",
                "ollama" => "env OLLAMA_HOST",
                "env" => "env ALUCO_PORT",
                _ => "flag --port",
            };
            assert!(origin.ends_with(expected), "{name}: {origin}");
        }
    }

    #[test]
    fn folders_follow_xdg_and_hugging_face() {
        let folder = Folder::new();
        let settings = |environment: Environment| {
            load(&environment, &folder.files("", ""), &[])
                .unwrap()
                .settings
        };
        let plain = settings([("HOME", "/home/owl")].into());
        assert_eq!(
            plain.models_folder,
            Path::new("/home/owl/.local/share/aluco/models")
        );
        assert_eq!(
            plain.hub_cache,
            Path::new("/home/owl/.cache/huggingface/hub")
        );
        let xdg = settings([("XDG_DATA_HOME", "/d"), ("XDG_CACHE_HOME", "not/absolute")].into());
        assert_eq!(xdg.models_folder, Path::new("/d/aluco/models"));
        assert_eq!(xdg.hub_cache, Path::new("/.cache/huggingface/hub"));
        let hub = settings([("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/hub")].into());
        assert_eq!(hub.hub_cache, Path::new("/hub"));
        assert_eq!(
            hub.cache_folder,
            Path::new("/.cache/aluco/prefix"),
            "no home"
        );
        let cache = settings([("XDG_CACHE_HOME", "/c")].into());
        assert_eq!(cache.cache_folder, Path::new("/c/aluco/prefix"));
    }

    #[test]
    fn a_tilde_is_the_home_folder_and_only_flags_are_relative() {
        let folder = Folder::new();
        let home = ("HOME", "/home/owl");
        let loaded = |environment: Environment, file: &str, flags: &[Given]| {
            load(&environment, &folder.files("", file), flags).map(|it| it.settings.models_folder)
        };
        for (path, expected) in [
            ("~/models", "/home/owl/models"),
            ("~", "/home/owl"),
            ("/a~", "/a~"),
        ] {
            let file = format!("models_folder = \"{path}\"");
            let expected = Path::new(expected);
            assert_eq!(loaded([home].into(), &file, &[]).unwrap(), expected);
            let environment = [home, ("ALUCO_MODELS_FOLDER", path)].into();
            assert_eq!(loaded(environment, "", &[]).unwrap(), expected);
            let flags = [flag("models_folder", path)];
            assert_eq!(loaded([home].into(), "", &flags).unwrap(), expected);
        }
        let flags = [flag("models_folder", "models")];
        assert_eq!(
            loaded([home].into(), "", &flags).unwrap(),
            Path::new("models")
        );
        let file = "models_folder = \"models\"";
        for (environment, file, expected) in [
            (Environment::from([home]), file, "a whole path"),
            (
                [home, ("OLLAMA_MODELS", "models")].into(),
                "",
                "environment variable OLLAMA_MODELS: expected a whole path",
            ),
            ([home, ("ALUCO_WORKER", "~cat/x")].into(), "", "in full"),
            ([("HF_HOME", "~/hf")].into(), "", "HOME is not set"),
        ] {
            let failure = loaded(environment, file, &[]).unwrap_err().to_string();
            assert!(failure.contains(expected), "{failure}");
        }
    }

    #[test]
    fn the_token_comes_from_the_file_of_hugging_face_unless_given() {
        let folder = Folder::new();
        folder.file("token", "hf_from_file\n");
        let home = folder.0.path().to_str().unwrap();
        let config = load(&[("HF_HOME", home)].into(), &folder.files("", ""), &[]).unwrap();
        assert_eq!(config.settings.hub_token.as_deref(), Some("hf_from_file"));
        assert!(config.origin("hub_token").to_string().ends_with("/token"));
        let environment = [("HOME", home), ("HF_HOME", "~")].into();
        let config = load(&environment, &folder.files("", ""), &[]).unwrap();
        assert_eq!(config.settings.hub_token.as_deref(), Some("hf_from_file"));
        let environment = [("HF_HOME", home), ("HF_TOKEN", "hf_from_env")].into();
        let config = load(&environment, &folder.files("", ""), &[]).unwrap();
        assert_eq!(config.settings.hub_token.as_deref(), Some("hf_from_env"));
    }

    #[test]
    fn what_the_prefix_store_may_use_comes_from_every_layer() {
        let folder = Folder::new();
        let file = "cache_device = 0\ncache_disk = \"2GiB\"\ntpot_ms = 12.5\nspeculation = \"off\"\nprompt_rules = \"~/rules.toml\"";
        let environment = [
            ("HOME", "/home/owl"),
            ("ALUCO_CACHE_ISOLATION", "key"),
            ("ALUCO_CACHE_DISK", "auto"),
        ]
        .into();
        let flags = [flag("cache_dir", "here"), flag("tpot_ms", "40")];
        let settings = load(&environment, &folder.files("", file), &flags)
            .unwrap()
            .settings;
        assert_eq!(settings.load.cache.device_tokens, Some(0));
        assert_eq!(settings.load.cache.disk_bytes, None);
        assert_eq!(settings.load.tpot_ms, Some(40.0));
        assert_eq!(settings.load.speculation, aluco_proto::Speculation::Off);
        assert_eq!(settings.cache_isolation, aluco_server::Isolation::Key);
        assert_eq!(settings.cache_folder, Path::new("here"));
        assert_eq!(
            settings.prompt_rules.as_deref(),
            Some(Path::new("/home/owl/rules.toml"))
        );
        for (file, expected) in [
            (
                "tpot_ms = 0.0",
                "`tpot_ms`: expected a number from 0.1 to 60000 or \"auto\", found 0",
            ),
            ("tpot_ms = nan", "found NaN"),
            ("tpot_ms = \"fast\"", "found \"fast\""),
            (
                "cache_isolation = \"user\"",
                "expected one of \"shared\", \"key\", found \"user\"",
            ),
        ] {
            let failure = load(&environment, &folder.files("", file), &[]).unwrap_err();
            let message = failure.to_string();
            assert!(message.contains(expected), "{file:?}: {message}");
        }
    }

    #[test]
    fn mistakes_in_a_file_are_named_with_line_key_and_cure() {
        let folder = Folder::new();
        for (text, expected) in [
            ("\nprot = 1", "user.toml:2: unknown key `prot`"),
            (
                "port = \"80\"",
                "user.toml:1: `port`: expected a whole number from 0 to 65535, found \"80\"",
            ),
            ("host = 1", "user.toml:1: `host`: expected text, found 1"),
            (
                "port = 1.5",
                "user.toml:1: `port`: expected a whole number from 0 to 65535, found 1.5",
            ),
            ("[server]\nport = 1", "user.toml:1: unknown key `server`"),
            (
                "kv_type_k = \"q9\"",
                "user.toml:1: `kv_type_k`: expected one of",
            ),
            ("port = 1\nport = 2", "user.toml:2: "),
            ("port 1", "user.toml:1: "),
        ] {
            let failure = load(&Environment::default(), &folder.files("", text), &[]).unwrap_err();
            let message = failure.to_string();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }

    #[test]
    fn a_named_file_has_to_exist_and_an_unnamed_one_need_not() {
        let environment = Environment::from([("HOME", "/nonexistent")]);
        assert!(load(&environment, &Files::find(&environment, None), &[]).is_ok());
        let files = Files::find(&environment, Some("/nonexistent/aluco.toml".as_ref()));
        let failure = load(&environment, &files, &[]).unwrap_err();
        assert!(failure.to_string().contains("/nonexistent/aluco.toml"));
    }

    #[test]
    fn wrong_variables_and_flags_are_named() {
        let folder = Folder::new();
        let environment = [("OLLAMA_HOST", "127.0.0.1:notaport")].into();
        let failure = load(&environment, &folder.files("", ""), &[]).unwrap_err();
        assert!(
            failure
                .to_string()
                .starts_with("environment variable OLLAMA_HOST: ")
        );
        let failure = load(
            &Environment::default(),
            &folder.files("", ""),
            &[flag("port", "70000")],
        )
        .unwrap_err();
        assert!(
            failure
                .to_string()
                .starts_with("--port: expected a whole number")
        );
        assert_eq!(failure.status, crate::failure::Status::Usage);
    }
}
