//! The numbers in blocks of quantised tensors, as llama.cpp's `ggml-quants.c` has them.

use aluco_model::gguf::TensorType;

/// Turns blocks of one type into numbers.
pub(crate) type Dequantise = fn(block: &[u8], numbers: &mut Vec<f32>);

/// How blocks of a type become numbers; `None` for the types that no model of the tests has.
pub(crate) fn dequantise(tensor_type: TensorType) -> Option<Dequantise> {
    match tensor_type {
        TensorType::F32 => Some(f32_block),
        TensorType::F16 => Some(f16_block),
        TensorType::Q4_1 => Some(q4_1_block),
        TensorType::Q8_0 => Some(q8_0_block),
        _ => None,
    }
}

fn f32_block(block: &[u8], numbers: &mut Vec<f32>) {
    let bytes = block.try_into().expect("a number has four bytes");
    numbers.push(f32::from_le_bytes(bytes));
}

fn f16_block(block: &[u8], numbers: &mut Vec<f32>) {
    numbers.push(half(block));
}

/// A scale, a minimum, then 32 numbers of four bits: the first 16 in the lower halves of the bytes, the others in the upper ones.
fn q4_1_block(block: &[u8], numbers: &mut Vec<f32>) {
    let (scale, minimum) = (half(&block[..2]), half(&block[2..4]));
    let number = |nibble: u8| f32::from(nibble) * scale + minimum;
    numbers.extend(block[4..].iter().map(|byte| number(byte & 0xf)));
    numbers.extend(block[4..].iter().map(|byte| number(byte >> 4)));
}

/// A scale, then 32 numbers of eight bits.
fn q8_0_block(block: &[u8], numbers: &mut Vec<f32>) {
    let scale = half(&block[..2]);
    let number = |byte: &u8| f32::from(byte.cast_signed()) * scale;
    numbers.extend(block[2..].iter().map(number));
}

/// A number of half precision (IEEE 754 binary16).
fn half(bytes: &[u8]) -> f32 {
    let bits = u16::from_le_bytes([bytes[0], bytes[1]]);
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let exponent = i32::from(bits >> 10 & 0x1f);
    let fraction = f32::from(bits & 0x3ff);
    let magnitude = match exponent {
        0 => fraction * 2_f32.powi(-24),
        0x1f if fraction == 0.0 => f32::INFINITY,
        0x1f => f32::NAN,
        _ => (1024.0 + fraction) * 2_f32.powi(exponent - 25),
    };
    sign * magnitude
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1.5, -2 and the like in half precision.
    const ONE_AND_A_HALF: [u8; 2] = 0x3e00_u16.to_le_bytes();
    const MINUS_TWO: [u8; 2] = 0xc000_u16.to_le_bytes();

    fn numbers(tensor_type: TensorType, block: &[u8]) -> Vec<f32> {
        assert_eq!(Some(block.len() as u64), tensor_type.block_bytes());
        let mut numbers = Vec::new();
        dequantise(tensor_type).unwrap()(block, &mut numbers);
        assert_eq!(Some(numbers.len() as u64), tensor_type.block_elements());
        numbers
    }

    #[test]
    fn halves_are_read_as_the_standard_has_them() {
        let cases: [(u16, f32); 9] = [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            // The smallest normal one, and the smallest of all.
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
            (0x83ff, -6.097_555e-5),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (bits, expected) in cases {
            let number = half(&bits.to_le_bytes());
            assert_eq!(number.to_bits(), expected.to_bits(), "{bits:#06x}");
        }
        assert!(half(&0x7e00_u16.to_le_bytes()).is_nan());
    }

    #[test]
    fn a_block_of_four_bits_has_its_second_half_in_the_upper_bits() {
        let mut block = [ONE_AND_A_HALF, MINUS_TWO].concat();
        block.extend((0..16).map(|n: u8| n | (15 - n) << 4));
        let rising = (0..16).map(|n: u8| f32::from(n) * 1.5 - 2.0);
        let expected: Vec<f32> = rising.clone().chain(rising.rev()).collect();
        assert_eq!(numbers(TensorType::Q4_1, &block), expected);
    }

    #[test]
    fn a_block_of_eight_bits_has_signs() {
        let mut block = MINUS_TWO.to_vec();
        block.extend([0x00, 0x01, 0x7f, 0x80, 0xff]);
        block.resize(34, 0x02);
        let mut expected = vec![0.0, -2.0, -254.0, 256.0, 2.0];
        expected.resize(32, -4.0);
        assert_eq!(numbers(TensorType::Q8_0, &block), expected);
    }

    #[test]
    fn whole_numbers_stay_what_they_are() {
        let bytes = 0.1_f32.to_le_bytes();
        assert_eq!(numbers(TensorType::F32, &bytes), [0.1]);
        assert_eq!(numbers(TensorType::F16, &ONE_AND_A_HALF), [1.5]);
    }
}
