//! How the numbers of a tensor are stored.

use std::fmt;

/// Type of a tensor's elements, as numbered in the file. Numbers that this Aluco does not know are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorType(pub u32);

/// Number, name, elements of a block, bytes of a block, as in llama.cpp's `ggml.h` and `ggml-common.h` of build 12032.
#[rustfmt::skip]
const TYPES: [(u32, &str, u64, u64); 42] = [
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
    (41, "Q1_0", 128, 18),
    (42, "Q2_0", 64, 18),
    (43, "F8_E4M3", 1, 1),
    // Gone from llama.cpp; files of their time still carry the numbers. The blocks were those of Q4_0 and IQ4_NL in other orders.
    (31, "Q4_0_4_4", 32, 18),
    (32, "Q4_0_4_8", 32, 18),
    (33, "Q4_0_8_8", 32, 18),
    (36, "IQ4_NL_4_4", 32, 18),
    (37, "IQ4_NL_4_8", 32, 18),
    (38, "IQ4_NL_8_8", 32, 18),
];

impl TensorType {
    /// 32-bit floats.
    pub const F32: Self = Self(0);
    /// 16-bit floats.
    pub const F16: Self = Self(1);
    /// 4-bit blocks of 32 with a scale and a minimum.
    pub const Q4_1: Self = Self(3);
    /// 8-bit blocks of 32 with a scale.
    pub const Q8_0: Self = Self(8);

    /// The types that this Aluco knows.
    pub fn known() -> impl Iterator<Item = Self> {
        TYPES.iter().map(|row| Self(row.0))
    }

    /// The name in capitals, such as `Q4_K`, or `None` for an unknown type.
    pub fn name(self) -> Option<&'static str> {
        self.row().map(|row| row.1)
    }

    /// Elements of a block; a row of a tensor is a whole number of blocks. `None` for an unknown type.
    pub fn block_elements(self) -> Option<u64> {
        self.row().map(|row| row.2)
    }

    /// Bytes of a block. `None` for an unknown type.
    pub fn block_bytes(self) -> Option<u64> {
        self.row().map(|row| row.3)
    }

    fn row(self) -> Option<&'static (u32, &'static str, u64, u64)> {
        TYPES.iter().find(|row| row.0 == self.0)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("type {}", self.0)),
        }
    }
}
