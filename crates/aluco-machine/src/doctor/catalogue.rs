//! The rules that come with Aluco: one file per theme.

use std::{collections::BTreeSet, sync::LazyLock};

use serde::Deserialize;

use super::{
    expression::Expression,
    rule::{Condition, Rule},
    table::{TableFile, Tables},
    template::Template,
};

macro_rules! themes {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../../rules/", $name, ".toml")))),+]
    };
}

const THEMES: [(&str, &str); 12] = themes![
    "hardware", "memory", "kernel", "firmware", "iommu", "rocm", "vulkan", "access", "power",
    "npu", "runtime", "logs",
];

/// Every rule and table.
#[derive(Debug, Default)]
pub struct Catalogue {
    pub(super) rules: Vec<Rule>,
    pub(super) tables: Tables,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ThemeFile {
    /// What must hold for every rule here that does not say it for itself.
    applies: Option<Condition>,
    #[serde(default, rename = "table")]
    tables: Vec<TableFile>,
    #[serde(rename = "rule")]
    rules: Vec<Rule>,
}

impl Catalogue {
    /// The rules that come with Aluco.
    pub fn embedded() -> &'static Self {
        static EMBEDDED: LazyLock<Catalogue> = LazyLock::new(|| {
            let mut catalogue = Catalogue::default();
            for (name, text) in THEMES {
                if let Err(error) = catalogue.add(text) {
                    panic!("rules/{name}.toml, which a test reads before it is built in: {error}");
                }
            }
            catalogue
        });
        &EMBEDDED
    }

    /// Adds a file of rules. The error says what is wrong with it.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        let file: ThemeFile = toml::from_str(text).map_err(|error| error.to_string())?;
        for table in file.tables {
            self.tables.add(table)?;
        }
        for mut rule in file.rules {
            if rule.applies.is_none() {
                rule.applies.clone_from(&file.applies);
            }
            self.check(&rule)
                .map_err(|error| format!("{}: {error}", rule.id))?;
            self.rules.push(rule);
        }
        Ok(())
    }

    /// Every rule, in the order of the files.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rule with this id, however its letters are.
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.rules
            .iter()
            .find(|rule| rule.id.eq_ignore_ascii_case(id))
    }

    fn check(&self, rule: &Rule) -> Result<(), String> {
        if self.rule(&rule.id).is_some() {
            return Err("there are two rules with this id".to_owned());
        }
        if rule.sources.is_empty() {
            return Err("it has no source".to_owned());
        }
        for source in &rule.sources {
            if !is_date(&source.date) {
                return Err(format!("{:?} of a source is no date", source.date));
            }
            if source.name.is_empty() {
                return Err("a source has no name".to_owned());
            }
        }
        for disagreement in &rule.disagreements {
            let named: BTreeSet<&str> = rule.sources.iter().map(|s| s.name.as_str()).collect();
            if disagreement.sources.is_empty() {
                return Err("a disagreement has no source".to_owned());
            }
            if let Some(stranger) = disagreement
                .sources
                .iter()
                .find(|source| !named.contains(source.as_str()))
            {
                return Err(format!(
                    "{stranger:?} disagrees and is not among the sources"
                ));
            }
        }
        for name in rule.expressions().into_iter().flat_map(Expression::tables) {
            if !self.tables.contains(&name) {
                return Err(format!("no table is called {name:?}"));
            }
        }
        for fix in &rule.fixes {
            for text in super::filling::strings(&fix.action) {
                Template::try_from(text)?;
            }
        }
        Ok(())
    }
}

/// `2026`, `2026-05` or `2026-05-15`.
fn is_date(text: &str) -> bool {
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    let digits = text
        .bytes()
        .all(|byte| byte == b'-' || byte.is_ascii_digit());
    digits && matches!(lengths[..], [4] | [4, 2] | [4, 2, 2])
}
