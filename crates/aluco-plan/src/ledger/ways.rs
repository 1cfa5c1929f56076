//! Ways out for a model that does not fit: each is tried on the ledger before it is offered.

use std::fmt;

use aluco_proto::{FlashAttention, KvType, LoadOptions};
use serde::{Deserialize, Serialize};

use super::{Candidate, Holder, Ledger};
use crate::{Bytes, Consumer, MemoryPlan, Shape};

/// How many ways are offered.
const WAYS_MAX: usize = 3;

/// Least context that is offered, in tokens.
const CONTEXT_LEAST: u32 = 1024;

/// Bits of each weight by quantisation, as llama.cpp's `tools/quantize` lists them for Llama 3.1 8B.
const QUANTISATIONS: [(&str, f64); 12] = [
    ("Q8_0", 8.50),
    ("Q6_K", 6.56),
    ("Q5_K_M", 5.70),
    ("Q5_K_S", 5.57),
    ("Q4_K_M", 4.89),
    ("Q4_K_S", 4.67),
    ("IQ4_XS", 4.46),
    ("Q3_K_M", 4.00),
    ("Q3_K_S", 3.64),
    ("Q2_K", 3.16),
    ("IQ2_M", 2.93),
    ("IQ2_XXS", 2.38),
];

/// Something that makes a model fit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WayOut {
    /// Unload models that nobody uses.
    Evict {
        /// Which, with the bytes that each gives back.
        models: Vec<(String, Bytes)>,
    },
    /// Keep fewer prompts in memory.
    SmallerStore {
        /// Most bytes for them.
        store: Bytes,
    },
    /// Store keys and values in fewer bits.
    KvType {
        /// Which type.
        kv_type: KvType,
        /// Bytes that this saves.
        saved: Bytes,
    },
    /// A smaller context.
    SmallerContext {
        /// Its tokens.
        tokens: u32,
        /// Bytes that this saves.
        saved: Bytes,
    },
    /// The same model in fewer bits.
    Quantisation {
        /// The largest usual one that fits.
        name: String,
        /// Its bits of each weight.
        bits_per_weight: f64,
        /// About how many bytes its weights take.
        weights: Bytes,
    },
    /// All at once: no prompts in memory, keys and values in `q8_0` where that can be, and a smaller context.
    Least {
        /// Type of keys and values.
        kv_type: KvType,
        /// Its tokens.
        tokens: u32,
    },
}

impl fmt::Display for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evict { models } => {
                let names: Vec<String> = models
                    .iter()
                    .map(|(name, bytes)| format!("{name} ({bytes})"))
                    .collect();
                write!(f, "unload {}, which nobody uses", names.join(" and "))
            }
            Self::SmallerStore { store } if store.is_zero() => {
                f.write_str("keep no prompts in memory: --cache-ram 0")
            }
            Self::SmallerStore { store } => {
                let mib = store.0 >> 20;
                write!(f, "keep fewer prompts in memory: --cache-ram {mib}MiB")
            }
            Self::KvType { kv_type, saved } => {
                let name = kv_type.name();
                write!(
                    f,
                    "store the KV cache in {name} ({saved} less): --kv-type-k {name} --kv-type-v {name}"
                )
            }
            Self::SmallerContext { tokens, saved } => {
                write!(f, "a smaller context ({saved} less): --context {tokens}")
            }
            Self::Quantisation {
                name,
                bits_per_weight,
                weights,
            } => write!(
                f,
                "another quantisation: {name} ({bits_per_weight:.1} bits per weight, about {weights}) or smaller"
            ),
            Self::Least { kv_type, tokens } => {
                write!(f, "all at once: --cache-ram 0 --context {tokens}")?;
                if *kv_type != KvType::F16 {
                    let name = kv_type.name();
                    write!(f, " --kv-type-k {name} --kv-type-v {name}")?;
                }
                Ok(())
            }
        }
    }
}

/// The best ways to make a candidate fit: those first that cost least, in time or in quality.
pub(super) fn ways(ledger: &Ledger, candidate: &Candidate<'_>, plan: &MemoryPlan) -> Vec<WayOut> {
    let search = Search {
        ledger,
        candidate,
        plan,
    };
    let mut ways: Vec<WayOut> = [
        evict(ledger, plan),
        search.smaller_store(),
        search.kv_type(KvType::Q8_0),
        search.smaller_context(),
        search.kv_type(KvType::Q4_0),
        search.quantisation(),
    ]
    .into_iter()
    .flatten()
    .collect();
    // The smaller type is no news where the larger one does.
    if ways.iter().any(|way| is_kv_type(way, KvType::Q8_0)) {
        ways.retain(|way| !is_kv_type(way, KvType::Q4_0));
    }
    if ways.len() < WAYS_MAX {
        ways.extend(search.least());
    }
    ways.truncate(WAYS_MAX);
    ways
}

/// As few idle models as possible, and then those that hold least.
pub(super) fn evict(ledger: &Ledger, plan: &MemoryPlan) -> Option<WayOut> {
    let mut idle: Vec<&Holder> = ledger.holders.values().filter(|h| h.is_idle).collect();
    idle.sort_by_key(|holder| holder.total());
    let fits_without = |gone: &[&Holder]| {
        let without = |holder: &Holder| gone.iter().any(|gone| std::ptr::eq(*gone, holder));
        ledger.fits(&plan.items, Some(&without))
    };
    let one = idle.iter().find(|holder| fits_without(&[holder]));
    let gone: Vec<&Holder> = match one {
        Some(holder) => vec![holder],
        None => (2..=idle.len())
            .map(|count| idle[idle.len() - count..].to_vec())
            .find(|gone| fits_without(gone))?,
    };
    Some(WayOut::Evict {
        models: gone
            .iter()
            .map(|holder| (holder.name.clone(), holder.total()))
            .collect(),
    })
}

fn is_kv_type(way: &WayOut, wanted: KvType) -> bool {
    matches!(way, WayOut::KvType { kv_type, .. } if *kv_type == wanted)
}

struct Search<'a> {
    ledger: &'a Ledger,
    candidate: &'a Candidate<'a>,
    plan: &'a MemoryPlan,
}

impl Search<'_> {
    fn with(&self, change: impl FnOnce(&mut LoadOptions)) -> MemoryPlan {
        let mut options = self.candidate.options.clone();
        change(&mut options);
        Candidate {
            options: &options,
            ..*self.candidate
        }
        .plan()
    }

    fn fits(&self, plan: &MemoryPlan) -> bool {
        self.ledger.fits(&plan.items, None)
    }

    fn saved(&self, plan: &MemoryPlan) -> Bytes {
        self.plan.total().less(plan.total())
    }

    /// As many bytes for stored prompts as fit, in whole MiB.
    fn smaller_store(&self) -> Option<WayOut> {
        let store = self.plan.of(Consumer::PrefixStore);
        let with = |store: Bytes| self.with(|options| options.cache.ram_bytes = Some(store.0));
        if store.is_zero() || !self.fits(&with(Bytes::ZERO)) {
            return None;
        }
        let (mut fits, mut fails) = (0, store.0 >> 20);
        while fails - fits > 1 {
            let middle = u64::midpoint(fits, fails);
            if self.fits(&with(Bytes::MIB.times(middle))) {
                fits = middle;
            } else {
                fails = middle;
            }
        }
        Some(WayOut::SmallerStore {
            store: Bytes::MIB.times(fits),
        })
    }

    fn kv_type(&self, kv_type: KvType) -> Option<WayOut> {
        let options = self.candidate.options;
        let is_plain = |kv_type| matches!(kv_type, KvType::F32 | KvType::F16 | KvType::Bf16);
        let is_smaller = is_plain(options.kv_type_k) || is_plain(options.kv_type_v);
        // llama.cpp quantises values under fused attention alone.
        if !is_smaller || options.flash_attention == FlashAttention::Off {
            return None;
        }
        let plan = self.with(|options| {
            options.kv_type_k = kv_type;
            options.kv_type_v = kv_type;
        });
        self.fits(&plan).then(|| WayOut::KvType {
            kv_type,
            saved: self.saved(&plan),
        })
    }

    fn smaller_context(&self) -> Option<WayOut> {
        let (tokens, plan) = self.largest_context(|_| {})?;
        Some(WayOut::SmallerContext {
            tokens,
            saved: self.saved(&plan),
        })
    }

    /// The largest context below the wanted one that fits, a power of two or one and a half times one.
    fn largest_context(
        &self,
        change: impl Fn(&mut LoadOptions) + Copy,
    ) -> Option<(u32, MemoryPlan)> {
        let wanted = self.plan.context_tokens;
        let steps = (10..31).flat_map(|power: u32| [1_u32 << power, 3 << (power - 1)]);
        let mut smaller: Vec<u32> = steps
            .filter(|&tokens| tokens >= CONTEXT_LEAST && u64::from(tokens) < wanted)
            .collect();
        smaller.sort_unstable();
        smaller.into_iter().rev().find_map(|tokens| {
            let plan = self.with(|options| {
                change(options);
                options.context_tokens = Some(tokens);
            });
            self.fits(&plan).then_some((tokens, plan))
        })
    }

    fn quantisation(&self) -> Option<WayOut> {
        let shape = self.candidate.shape;
        let bits = shape.bits_per_weight();
        QUANTISATIONS
            .iter()
            .filter(|(_, fewer)| *fewer < bits - 0.1)
            .find_map(|(name, fewer)| {
                let smaller = scaled(shape, fewer / bits);
                let candidate = Candidate {
                    shape: &smaller,
                    ..*self.candidate
                };
                self.fits(&candidate.plan()).then(|| WayOut::Quantisation {
                    name: (*name).to_owned(),
                    bits_per_weight: *fewer,
                    weights: smaller.weights(),
                })
            })
    }

    fn least(&self) -> Option<WayOut> {
        let kv_type = match self.candidate.options {
            options if options.flash_attention == FlashAttention::Off => KvType::F16,
            options if options.kv_type_v == KvType::F16 => KvType::Q8_0,
            options => options.kv_type_v,
        };
        let (tokens, _) = self.largest_context(|options| {
            options.cache.ram_bytes = Some(0);
            options.kv_type_k = kv_type;
            options.kv_type_v = kv_type;
        })?;
        Some(WayOut::Least { kv_type, tokens })
    }
}

/// The same model with all tensors this much smaller.
fn scaled(shape: &Shape, factor: f64) -> Shape {
    let scale = |bytes: Bytes| Bytes((bytes.0 as f64 * factor) as u64);
    let mut smaller = shape.clone();
    smaller.input = scale(smaller.input);
    smaller.output = scale(smaller.output);
    smaller.tied = smaller.tied.map(scale);
    for layer in &mut smaller.layers {
        layer.weights = scale(layer.weights);
    }
    smaller
}
