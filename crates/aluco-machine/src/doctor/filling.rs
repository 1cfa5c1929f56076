//! The strings of an action with the values of facts filled in.

use serde_json::Value as Json;

use super::{
    expression::{Scope, Unknown},
    fix::FixAction,
    template::Template,
};

/// The strings of an action that may hold expressions.
pub(super) fn strings(action: &FixAction) -> Vec<String> {
    let mut strings = Vec::new();
    let mut json = serde_json::to_value(action).expect("actions are maps of strings");
    each(&mut json, &mut |text| {
        strings.push(text.clone());
        Ok(())
    })
    .unwrap_or_else(|never: std::convert::Infallible| match never {});
    strings
}

/// The action for this machine, or what is missing for it.
pub(super) fn fill(action: &FixAction, scope: &dyn Scope) -> Result<FixAction, Unknown> {
    let mut json = serde_json::to_value(action).expect("actions are maps of strings");
    each(&mut json, &mut |text| {
        let template = Template::try_from(std::mem::take(text))
            .map_err(|error| Unknown::new("rule", error, false))?;
        *text = template.render(scope)?;
        Ok(())
    })?;
    serde_json::from_value(json).map_err(|error| Unknown::new("rule", error.to_string(), false))
}

fn each<E>(json: &mut Json, see: &mut impl FnMut(&mut String) -> Result<(), E>) -> Result<(), E> {
    match json {
        Json::String(text) => see(text),
        Json::Array(items) => items.iter_mut().try_for_each(|item| each(item, see)),
        Json::Object(entries) => entries
            .iter_mut()
            .filter(|(name, _)| !matches!(name.as_str(), "kind" | "operation"))
            .try_for_each(|(_, value)| each(value, see)),
        Json::Null | Json::Bool(_) | Json::Number(_) => Ok(()),
    }
}
