//! What the findings ask for, put together: one wish for each setting, with all the rules that ask for it.

use std::collections::BTreeMap;

use super::{Choices, GttSize, LeftOut};
use crate::{
    doctor::{Finding, FixAction, Severity},
    facts::Facts,
    tune::Reason,
};

/// Something that is asked for, and by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish<T> {
    pub(super) what: T,
    pub(super) reasons: Vec<Reason>,
}

/// What is to become of one kernel argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ArgumentWish {
    /// `name=value` or `name`
    Set(String),
    /// All of the name, or those of one value.
    Remove(String, Option<String>),
}

/// All wishes, by what they are for.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// By the argument's name.
    pub(super) arguments: BTreeMap<String, Wish<ArgumentWish>>,
    /// By module and option; `None`: it goes.
    pub(super) module_options: BTreeMap<(String, String), Wish<Option<String>>>,
    /// By key.
    pub(super) sysctls: BTreeMap<String, Wish<String>>,
    /// By domain and item.
    pub(super) limits: BTreeMap<(String, String), Wish<String>>,
    /// By the file's whole path; `None`: it goes.
    pub(super) udev: BTreeMap<String, Wish<Option<String>>>,
    pub(super) tuned_profile: Option<Wish<String>>,
    pub(super) platform_profile: Option<Wish<String>>,
    /// By the group's name.
    pub(super) groups: BTreeMap<String, Wish<()>>,
    /// By the unit's name.
    pub(super) masked_units: BTreeMap<String, Wish<()>>,
    /// What no program can do.
    pub(super) by_hand: Vec<Wish<FixAction>>,
    pub(super) left_out: Vec<LeftOut>,
}

/// The rule that asks whether the NPU is used, because without the IOMMU it does not work.
const IOMMU_COSTS_SPEED: &str = "IOM-01";
const ARGUMENT_THAT_COSTS_THE_NPU: (&str, &str) = ("amd_iommu", "off");

impl Wishes {
    /// Puts together what the findings ask for, the most severe first.
    pub(super) fn of(findings: &[Finding], choices: &Choices, gtt: Option<&GttSize>) -> Self {
        let mut wishes = Self::default();
        let mut findings: Vec<&Finding> = findings.iter().collect();
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        for finding in findings {
            if finding.fix.is_empty() {
                continue;
            }
            if let Some(why) = why_left_out(finding, choices) {
                wishes.left_out.push(LeftOut {
                    rule: finding.rule.clone(),
                    title: finding.title.clone(),
                    why,
                });
                continue;
            }
            if finding.rule == IOMMU_COSTS_SPEED {
                // The doctor can only say what to weigh up; that the NPU is not used decides it.
                let (name, off) = ARGUMENT_THAT_COSTS_THE_NPU;
                let action = FixAction::SetKernelArgument {
                    name: name.to_owned(),
                    value: Some(off.to_owned()),
                };
                wishes.add(&action, &reason(finding), gtt);
                continue;
            }
            for action in &finding.fix {
                wishes.add(action, &reason(finding), gtt);
            }
        }
        wishes
    }

    fn add(&mut self, action: &FixAction, reason: &Reason, gtt: Option<&GttSize>) {
        match action {
            FixAction::SetKernelArgument { name, value } => {
                let value = sized(name, gtt).or_else(|| value.clone());
                let argument =
                    value.map_or_else(|| name.clone(), |value| format!("{name}={value}"));
                let what = ArgumentWish::Set(argument);
                self.wish(reason, name, what, |wishes| &mut wishes.arguments);
            }
            FixAction::RemoveKernelArgument { name, value } => {
                let what = ArgumentWish::Remove(name.clone(), value.clone());
                self.wish(reason, name, what, |wishes| &mut wishes.arguments);
            }
            FixAction::SetModuleOption {
                module,
                option,
                value,
            } => {
                let value =
                    sized(&format!("{module}.{option}"), gtt).unwrap_or_else(|| value.clone());
                let key = (module.clone(), option.clone());
                self.wish(reason, &key, Some(value), |wishes| {
                    &mut wishes.module_options
                });
            }
            FixAction::RemoveModuleOption { module, option } => {
                let key = (module.clone(), option.clone());
                self.wish(reason, &key, None, |wishes| &mut wishes.module_options);
            }
            FixAction::SetUdevRule { name, rule } => {
                let path = format!("/etc/udev/rules.d/60-aluco-{name}.rules");
                self.wish(reason, &path, Some(rule.clone()), |wishes| &mut wishes.udev);
            }
            FixAction::RemoveUdevRule { path } => {
                self.wish(reason, path, None, |wishes| &mut wishes.udev);
            }
            FixAction::LimitsConf {
                domain,
                item,
                value,
            } => {
                let key = (domain.clone(), item.clone());
                self.wish(reason, &key, value.clone(), |wishes| &mut wishes.limits);
            }
            FixAction::Sysctl { key, value } => {
                self.wish(reason, key, value.clone(), |wishes| &mut wishes.sysctls);
            }
            FixAction::TunedProfile { profile } => {
                merge_one(&mut self.tuned_profile, profile.clone(), reason);
            }
            FixAction::PlatformProfile { profile } => {
                merge_one(&mut self.platform_profile, profile.clone(), reason);
            }
            FixAction::GroupMember { group } => {
                self.wish(reason, group, (), |wishes| &mut wishes.groups);
            }
            FixAction::MaskUnits { units } => {
                for unit in units {
                    self.wish(reason, unit, (), |wishes| &mut wishes.masked_units);
                }
            }
            FixAction::Package { .. }
            | FixAction::BiosSetting { .. }
            | FixAction::Manual { .. } => {
                match self.by_hand.iter_mut().find(|wish| wish.what == *action) {
                    Some(wish) => wish.reasons.push(reason.clone()),
                    None => self.by_hand.push(Wish {
                        what: action.clone(),
                        reasons: vec![reason.clone()],
                    }),
                }
            }
        }
    }

    /// Adds a wish. Of two that contradict each other the first one holds, which is the more severe.
    fn wish<K: Ord + Clone, T: PartialEq>(
        &mut self,
        reason: &Reason,
        key: &K,
        what: T,
        place: impl Fn(&mut Self) -> &mut BTreeMap<K, Wish<T>>,
    ) {
        let map = place(self);
        let Some(known) = map.get_mut(key) else {
            let reasons = vec![reason.clone()];
            map.insert(key.clone(), Wish { what, reasons });
            return;
        };
        if known.what != what {
            let other = known.reasons[0].rule.clone();
            self.left_out.push(LeftOut {
                rule: reason.rule.clone(),
                title: reason.text.clone(),
                why: format!("{other} asks for the contrary and matters more"),
            });
        } else if known.reasons.iter().all(|known| known.rule != reason.rule) {
            known.reasons.push(reason.clone());
        }
    }

    /// Sizes the GPU's memory as the user asked, whether or not a rule found anything. AMD's driver from outside the kernel has a ttm of its own, and
    /// needs `gttsize` beside its limit.
    pub(super) fn add_gtt(&mut self, gtt: &GttSize, facts: &Facts) {
        let reason = Reason {
            rule: "MEM-02".to_owned(),
            text: "you asked for this size".to_owned(),
            sources: Vec::new(),
        };
        let names = if facts.modules.amdttm.get().is_some() {
            &["amdttm.pages_limit", "amdgpu.gttsize"][..]
        } else {
            &["ttm.pages_limit"]
        };
        for name in names {
            let value = sized(name, Some(gtt)).expect("these arguments are sized");
            let wish = Wish {
                what: ArgumentWish::Set(format!("{name}={value}")),
                reasons: vec![reason.clone()],
            };
            self.arguments.insert((*name).to_owned(), wish);
        }
    }
}

fn merge_one(place: &mut Option<Wish<String>>, what: String, reason: &Reason) {
    match place {
        Some(known) => {
            if known.what == what {
                known.reasons.push(reason.clone());
            }
        }
        None => {
            *place = Some(Wish {
                what,
                reasons: vec![reason.clone()],
            });
        }
    }
}

/// Whether this argument says how much memory the GPU may have.
pub(super) fn sizes_gtt(name: &str) -> bool {
    matches!(name, "ttm.pages_limit" | "amdttm.pages_limit")
}

/// The value that our own sizing gives an argument.
fn sized(name: &str, gtt: Option<&GttSize>) -> Option<String> {
    let gtt = gtt?;
    match name {
        name if sizes_gtt(name) => Some(gtt.pages.to_string()),
        "amdgpu.gttsize" => Some(gtt.mib().to_string()),
        _ => None,
    }
}

fn why_left_out(finding: &Finding, choices: &Choices) -> Option<String> {
    let named = |list: &[String]| list.iter().any(|id| id.eq_ignore_ascii_case(&finding.rule));
    if named(&choices.skip) {
        return Some("you skipped it".to_owned());
    }
    if !choices.only.is_empty() && !named(&choices.only) {
        return Some("you asked for others only".to_owned());
    }
    let (name, off) = ARGUMENT_THAT_COSTS_THE_NPU;
    let sets_off = finding.rule == IOMMU_COSTS_SPEED
        || finding.fix.iter().any(|action| {
            matches!(action, FixAction::SetKernelArgument { name: found, value }
                if found == name && value.as_deref() == Some(off))
        });
    let removes_off = finding.fix.iter().any(|action| {
        matches!(action, FixAction::RemoveKernelArgument { name: found, .. } if found == name)
    });
    if sets_off && choices.npu != Some(false) {
        return Some(match choices.npu {
            Some(_) => "without the IOMMU the NPU does not work".to_owned(),
            None => "without the IOMMU the NPU does not work; say --npu no if you do not use it"
                .to_owned(),
        });
    }
    if removes_off && choices.npu == Some(false) {
        return Some("the NPU is not used, so the IOMMU may stay off".to_owned());
    }
    if finding.severity == Severity::Hint && !choices.hints && !named(&choices.only) && !sets_off {
        return Some(format!(
            "only a hint; --hints takes all of them, --only {} just this one",
            finding.rule
        ));
    }
    None
}

fn reason(finding: &Finding) -> Reason {
    Reason {
        rule: finding.rule.clone(),
        text: finding.message.clone(),
        sources: finding
            .sources
            .iter()
            .map(|source| match &source.url {
                Some(url) => format!("{} ({}), {url}", source.name, source.date),
                None => format!("{} ({})", source.name, source.date),
            })
            .collect(),
    }
}
