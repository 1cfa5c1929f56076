//! What a whole file was quantised to.

use std::fmt;

/// The value of `general.file_type`: the recipe that a file was quantised by. A recipe mixes tensor types; `Q4_K_M`, for one, has
/// some tensors in `Q6_K`. Numbers that this Aluco does not know are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileType(pub u32);

/// Set by llama.cpp when it guessed the recipe from the tensors.
const GUESSED: u32 = 1024;

/// Numbers and names as in llama.cpp's `llama_ftype` of build 12032, in the spelling of file names.
#[rustfmt::skip]
const NAMES: [(u32, &str); 43] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (4, "Q4_1_SOME_F16"),
    (5, "Q4_2"),
    (6, "Q4_3"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (19, "IQ2_XXS"),
    (20, "IQ2_XS"),
    (21, "Q2_K_S"),
    (22, "IQ3_XS"),
    (23, "IQ3_XXS"),
    (24, "IQ1_S"),
    (25, "IQ4_NL"),
    (26, "IQ3_S"),
    (27, "IQ3_M"),
    (28, "IQ2_S"),
    (29, "IQ2_M"),
    (30, "IQ4_XS"),
    (31, "IQ1_M"),
    (32, "BF16"),
    (33, "Q4_0_4_4"),
    (34, "Q4_0_4_8"),
    (35, "Q4_0_8_8"),
    (36, "TQ1_0"),
    (37, "TQ2_0"),
    (38, "MXFP4_MOE"),
    (39, "NVFP4"),
    (40, "Q1_0"),
    (41, "Q2_0"),
    (42, "F8_E4M3"),
];

impl FileType {
    /// The name as in file names, such as `Q4_K_M`, or `None` for an unknown recipe.
    pub fn name(self) -> Option<&'static str> {
        let number = self.0 & !GUESSED;
        NAMES
            .iter()
            .find(|(known, _)| *known == number)
            .map(|(_, name)| *name)
    }
}

impl fmt::Display for FileType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("type {}", self.0)),
        }
    }
}
