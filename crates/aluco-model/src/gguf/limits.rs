//! What a header may cost.

/// Bounds on what a header may claim. The defaults leave room above the largest models in circulation (about 2,000 tensors,
/// 100 keys, vocabularies of 300,000 tokens, 40 MB of header). Memory is needed for the texts that are kept, of which the file must
/// really hold every byte, and beyond that for some tens of megabytes at the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the header, up to the end of the tensor list.
    pub header_bytes_max: u64,
    /// Keys.
    pub keys_max: u64,
    /// Tensors of all parts together.
    pub tensors_max: u64,
    /// Bytes of a key.
    pub key_bytes_max: u64,
    /// Bytes of a tensor's name. llama.cpp itself stops at 63; its relatives go further.
    pub tensor_name_bytes_max: u64,
    /// Bytes of a string value.
    pub string_bytes_max: u64,
    /// Elements of an array.
    pub array_elements_max: u64,
    /// Arrays within arrays; 1 means that an array holds no arrays.
    pub array_nesting_max: u32,
    /// Alignment of the tensors, in bytes.
    pub alignment_max: u32,
    /// Files of a split model.
    pub parts_max: u64,
    /// Arrays up to this length are kept whole; of longer ones (tokens, merges, scores) only the first
    /// [`Limits::array_head`] elements. `u64::MAX` keeps everything.
    pub array_kept_max: u64,
    /// Elements kept of an array that is not kept whole.
    pub array_head: u64,
    /// Array elements kept in all. When they are used up, arrays keep their length only.
    pub elements_kept_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes_max: 256 << 20,
            keys_max: 16_384,
            tensors_max: 65_536,
            key_bytes_max: 4096,
            tensor_name_bytes_max: 255,
            string_bytes_max: 64 << 20,
            array_elements_max: 16 << 20,
            array_nesting_max: 3,
            alignment_max: 1 << 20,
            parts_max: 4096,
            array_kept_max: 1024,
            array_head: 8,
            elements_kept_max: 256 << 10,
        }
    }
}

impl Limits {
    /// The same bounds on what a file may claim, with every array kept whole: tokens, merges and all.
    #[must_use]
    pub fn keeping_arrays(self) -> Self {
        Self {
            array_kept_max: u64::MAX,
            elements_kept_max: u64::MAX,
            ..self
        }
    }
}
