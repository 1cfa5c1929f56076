//! Which GGUF files of a repository make one model, and what that model is called.
//!
//! Repositories hold one model in many quantisations, each as one file or as parts (`-00001-of-00003.gguf`), at the top or in a
//! folder of its own, beside files that are no language models (vision projectors, importance matrices). This is the one
//! place that knows these habits; the local cache and the hub's listing both go through it.

use std::collections::BTreeMap;

/// The files of one model among the files of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variant {
    /// What names it within the repository: its quantisation if no other model there has the same, else its file name
    /// without extension and part number.
    pub(crate) tag: String,
    /// Its quantisation in capitals, such as `UD-Q4_K_XL`, as far as the file name tells.
    pub(crate) quant: Option<String>,
    /// File name without extension and part number.
    pub(crate) stem: String,
    /// Paths within the repository, in the order of the parts.
    pub(crate) files: Vec<String>,
    /// Parts that belong to it.
    pub(crate) parts_total: usize,
}

/// Quantisations from the one most people want to the one they would not download by accident. Four bits with mixed
/// precision come first: on memory-bound hardware they are the usual trade of quality against speed.
const DEFAULT_ORDER: [&str; 33] = [
    "Q4_K_M",
    "Q4_K_XL",
    "MXFP4",
    "MXFP4_MOE",
    "Q4_K_L",
    "Q4_K_S",
    "Q4_K",
    "IQ4_NL",
    "IQ4_XS",
    "Q4_1",
    "Q4_0",
    "Q5_K_M",
    "Q5_K_XL",
    "Q5_K_L",
    "Q5_K_S",
    "Q5_K",
    "Q5_1",
    "Q5_0",
    "Q6_K",
    "Q6_K_XL",
    "Q6_K_L",
    "Q8_0",
    "Q8_K_XL",
    "Q3_K_XL",
    "Q3_K_L",
    "Q3_K_M",
    "IQ3_M",
    "Q3_K_S",
    "IQ3_XXS",
    "BF16",
    "F16",
    "FP16",
    "F32",
];

impl Variant {
    /// True if all parts are there.
    pub(crate) fn is_complete(&self) -> bool {
        self.files.len() == self.parts_total
    }

    fn quant_without_vendor(&self) -> Option<&str> {
        let quant = self.quant.as_deref()?;
        Some(quant.strip_prefix("UD-").unwrap_or(quant))
    }

    fn default_rank(&self) -> usize {
        self.quant_without_vendor()
            .and_then(|quant| DEFAULT_ORDER.iter().position(|known| *known == quant))
            .unwrap_or(DEFAULT_ORDER.len())
    }
}

/// The models among these files, complete or not, in the order of their tags.
pub(crate) fn variants<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<Variant> {
    // Key: folder, stem, number of parts. Value: part number to path.
    let mut groups: BTreeMap<(&str, &str, usize), BTreeMap<usize, &str>> = BTreeMap::new();
    for path in paths {
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(name) = strip_gguf(file) else {
            continue;
        };
        if !is_language_model(name) {
            continue;
        }
        let (stem, part, total) = split_part(name).unwrap_or((name, 1, 1));
        groups
            .entry((folder, stem, total))
            .or_default()
            .insert(part, path);
    }
    let mut variants: Vec<Variant> = groups
        .into_iter()
        .map(|((folder, stem, parts_total), parts)| {
            let folder_name = folder.rsplit('/').next().unwrap_or_default();
            Variant {
                tag: String::new(),
                quant: quant_label(stem).or_else(|| quant_label(folder_name)),
                stem: stem.to_owned(),
                files: parts.into_values().map(str::to_owned).collect(),
                parts_total,
            }
        })
        .collect();
    for index in 0..variants.len() {
        let Variant { quant, stem, .. } = &variants[index];
        let same = variants.iter().filter(|v| v.quant == *quant).count();
        variants[index].tag = match quant {
            Some(quant) if same == 1 => quant.clone(),
            _ => stem.clone(),
        };
    }
    variants.sort_by(|a, b| (&a.tag, &a.files).cmp(&(&b.tag, &b.files)));
    variants
}

/// The complete variant that a tag means. Tags are compared without regard to case with, in this order, the tag, the
/// quantisation, the quantisation without the vendor's `UD-`, and the file name. Without a tag: the first in the order of
/// [`DEFAULT_ORDER`] (`Q4_K_M`, `UD-Q4_K_XL`, `MXFP4`, …), else the first by name.
pub(crate) fn choose<'a>(variants: &'a [Variant], tag: Option<&str>) -> Option<&'a Variant> {
    let complete = || variants.iter().filter(|v| v.is_complete());
    let Some(tag) = tag else {
        return complete().min_by_key(|v| (v.default_rank(), v.parts_total, &v.tag));
    };
    let tests: [fn(&Variant) -> Option<&str>; 4] = [
        |v| Some(&v.tag),
        |v| v.quant.as_deref(),
        Variant::quant_without_vendor,
        |v| Some(&v.stem),
    ];
    tests.iter().find_map(|test| {
        complete()
            .filter(|v| test(v).is_some_and(|own| own.eq_ignore_ascii_case(tag)))
            .min_by_key(|v| (v.parts_total, &v.files))
    })
}

/// A split model's name without part number, the part's number from 1, and the number of parts.
pub(crate) fn split_part(name: &str) -> Option<(&str, usize, usize)> {
    let (rest, total) = name.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number = |text: &str| {
        (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse::<usize>().ok())
            .flatten()
    };
    let (part, total) = (number(part)?, number(total)?);
    (!stem.is_empty() && part >= 1 && part <= total).then_some((stem, part, total))
}

/// A file name without `.gguf`.
pub(crate) fn strip_gguf(file: &str) -> Option<&str> {
    let at = file.len().checked_sub(5)?;
    (at > 0 && file.is_char_boundary(at) && file[at..].eq_ignore_ascii_case(".gguf"))
        .then(|| &file[..at])
}

fn is_language_model(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let projector =
        name.starts_with("mmproj") || name.contains("-mmproj") || name.contains(".mmproj");
    let matrix =
        name.starts_with("imatrix") || name.ends_with("-imatrix") || name.ends_with(".imatrix");
    let vocabulary = name.starts_with("ggml-vocab");
    !(projector || matrix || vocabulary)
}

/// The quantisation that a file or folder name tells, in capitals: the last word that looks like one.
pub(crate) fn quant_label(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let starts = upper.char_indices().filter(|(at, _)| {
        *at == 0 || matches!(upper.as_bytes()[at - 1], b'-' | b'.' | b'_' | b' ')
    });
    let mut found: Option<(usize, usize)> = None;
    for (at, _) in starts {
        // Within what was found already: `K_M` of `Q4_K_M`.
        if found.is_some_and(|(start, len)| at < start + len) {
            continue;
        }
        if let Some(len) = quant_len(&upper[at..]) {
            found = Some((at, len));
        }
    }
    let (at, len) = found?;
    let vendor = if upper[..at].ends_with("UD-") {
        "UD-"
    } else {
        ""
    };
    Some(format!("{vendor}{}", &upper[at..at + len]))
}

/// Length of the quantisation at the start of a text in capitals.
fn quant_len(text: &str) -> Option<usize> {
    let mut words = text.split_inclusive('_');
    let first = words.next()?;
    let head = first.trim_end_matches('_');
    let head_len = head.find(['-', '.', ' ']).unwrap_or(head.len());
    let head = &head[..head_len];
    let digits_after = |prefix: &str| {
        head.strip_prefix(prefix).is_some_and(|rest| {
            !rest.is_empty() && rest.len() <= 2 && rest.bytes().all(|b| b.is_ascii_digit())
        })
    };
    let known = matches!(
        head,
        "F16"
            | "BF16"
            | "FP16"
            | "F32"
            | "FP32"
            | "FP8"
            | "F64"
            | "MXFP4"
            | "MXFP6"
            | "MXFP8"
            | "NVFP4"
    ) || digits_after("Q")
        || digits_after("IQ")
        || digits_after("TQ");
    if !known {
        return None;
    }
    let mut len = head_len;
    if first.ends_with('_') && head_len + 1 == first.len() {
        for word in words {
            let body = word.trim_end_matches('_');
            let end = body.find(['-', '.', ' ']).unwrap_or(body.len());
            if !matches!(
                &body[..end],
                "0" | "1"
                    | "2"
                    | "3"
                    | "4"
                    | "8"
                    | "K"
                    | "S"
                    | "M"
                    | "L"
                    | "XL"
                    | "XS"
                    | "XXS"
                    | "XXL"
                    | "NL"
                    | "MOE"
                    | "KM"
            ) {
                break;
            }
            len += 1 + end;
            if end < body.len() {
                break;
            }
        }
    }
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(paths: &[&str]) -> Vec<String> {
        variants(paths.iter().copied())
            .into_iter()
            .map(|v| v.tag)
            .collect()
    }

    #[test]
    fn quantisations_are_read_from_the_names_that_publishers_use() {
        for (name, quant) in [
            ("Qwen3-30B-A3B-Q4_K_M", Some("Q4_K_M")),
            ("Qwen3-30B-A3B-UD-Q4_K_XL", Some("UD-Q4_K_XL")),
            ("SmolLM2-135M-Instruct.Q4_1", Some("Q4_1")),
            ("smollm2-135m-instruct-q8_0", Some("Q8_0")),
            ("gpt-oss-120b-mxfp4", Some("MXFP4")),
            ("gemma-4-26B-A4B-it-MXFP4_MOE", Some("MXFP4_MOE")),
            ("model-IQ2_XXS", Some("IQ2_XXS")),
            ("ggml-model-i2_s", None),
            ("model_q5_k_s", Some("Q5_K_S")),
            ("Llama-3.3-70B-Q4_0_4_8", Some("Q4_0_4_8")),
            ("gemma-3-27b-it-BF16", Some("BF16")),
            ("model-TQ1_0", Some("TQ1_0")),
            ("Q6_K", Some("Q6_K")),
            ("model-Q4_K_M-v2", Some("Q4_K_M")),
            ("Q8_0-to-Q4_K_M", Some("Q4_K_M")),
            ("Qwen3-0.6B", None),
            ("q-learning", None),
            ("", None),
            ("modèle-Q4_0-é", Some("Q4_0")),
        ] {
            assert_eq!(quant_label(name).as_deref(), quant, "{name}");
        }
    }

    #[test]
    fn parts_make_one_model_and_projectors_none() {
        let found = variants([
            "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf",
            "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf",
            "m-Q8_0.gguf",
            "mmproj-F16.gguf",
            "m-imatrix.gguf",
            "README.md",
            "BF16/m-BF16-00001-of-00003.gguf",
        ]);
        let summary: Vec<_> = found
            .iter()
            .map(|v| (v.tag.as_str(), v.files.len(), v.is_complete()))
            .collect();
        assert_eq!(
            summary,
            [("BF16", 1, false), ("Q4_K_M", 2, true), ("Q8_0", 1, true)]
        );
        assert_eq!(found[1].files[0], "Q4_K_M/m-Q4_K_M-00001-of-00002.gguf");
    }

    #[test]
    fn two_models_of_one_quantisation_are_told_apart_by_file_name() {
        assert_eq!(
            tags(&["a-1b-Q4_0.gguf", "a-2b-Q4_0.gguf", "a-1b-Q8_0.gguf"]),
            ["Q8_0", "a-1b-Q4_0", "a-2b-Q4_0"]
        );
        assert_eq!(tags(&["model.gguf"]), ["model"]);
    }

    #[test]
    fn a_folder_tells_the_quantisation_when_the_file_does_not() {
        assert_eq!(
            tags(&["UD-Q3_K_XL/model-00001-of-00001.gguf"]),
            ["UD-Q3_K_XL"]
        );
    }

    #[test]
    fn tags_match_by_case_vendor_and_file_name_but_only_whole_models() {
        let all = variants([
            "m-UD-Q4_K_XL.gguf",
            "m-Q4_K_M.gguf",
            "m-UD-Q4_K_M.gguf",
            "m-Q8_0-00001-of-00002.gguf",
        ]);
        let pick = |tag| choose(&all, tag).map(|v| v.stem.as_str());
        assert_eq!(pick(Some("q4_k_m")), Some("m-Q4_K_M"));
        assert_eq!(pick(Some("Q4_K_XL")), Some("m-UD-Q4_K_XL"));
        assert_eq!(pick(Some("ud-q4_k_m")), Some("m-UD-Q4_K_M"));
        assert_eq!(pick(Some("M-Q4_K_M")), Some("m-Q4_K_M"));
        assert_eq!(pick(Some("Q8_0")), None);
        assert_eq!(pick(None), Some("m-Q4_K_M"));
    }

    #[test]
    fn the_default_is_four_bits_then_the_nearest() {
        let pick = |paths: &[&str]| {
            choose(&variants(paths.iter().copied()), None)
                .unwrap()
                .tag
                .clone()
        };
        assert_eq!(
            pick(&["m-F16.gguf", "m-UD-Q4_K_XL.gguf", "m-Q2_K.gguf"]),
            "UD-Q4_K_XL"
        );
        assert_eq!(pick(&["m-Q2_K.gguf", "m-Q8_0.gguf"]), "Q8_0");
        assert_eq!(pick(&["x.gguf", "m-IQ1_S.gguf"]), "IQ1_S");
    }

    #[test]
    fn impossible_part_numbers_are_part_of_the_name() {
        assert_eq!(split_part("m-00000-of-00002"), None);
        assert_eq!(split_part("m-00003-of-00002"), None);
        assert_eq!(split_part("-00001-of-00002"), None);
        assert_eq!(split_part("m-1-of-2"), None);
        assert_eq!(split_part("m-00001-of-00002"), Some(("m", 1, 2)));
    }
}
