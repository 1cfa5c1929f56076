// llama.cpp's C functions may throw C++ exceptions (a graph that cannot be built, a tokenizer that meets what it does not know).
// An exception that reaches Rust ends the process, so these few calls go through here: what is thrown becomes a status and a
// message. Prototypes are repeated because the bindings crate does not pass its include folder on; `aluco_guard_batch_bytes` lets
// the Rust side check that the one struct passed by value has the layout both sides think it has.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>

extern "C" {
struct llama_context;
struct llama_model;
struct llama_vocab;
struct llama_memory_i;

struct llama_batch {
    int32_t    n_tokens;
    int32_t *  token;
    float *    embd;
    int32_t *  pos;
    int32_t *  n_seq_id;
    int32_t ** seq_id;
    int8_t *   logits;
};

int32_t llama_decode(llama_context * ctx, llama_batch batch);
void    llama_synchronize(llama_context * ctx);
float * llama_get_logits_ith(llama_context * ctx, int32_t i);
int32_t llama_tokenize(const llama_vocab * vocab, const char * text, int32_t text_len, int32_t * tokens, int32_t n_tokens_max,
                       bool add_special, bool parse_special);
int32_t llama_token_to_piece(const llama_vocab * vocab, int32_t token, char * buf, int32_t length, int32_t lstrip, bool special);
int32_t llama_detokenize(const llama_vocab * vocab, const int32_t * tokens, int32_t n_tokens, char * text, int32_t text_len_max,
                         bool remove_special, bool unparse_special);
void    llama_memory_seq_cp(llama_memory_i * mem, int32_t src, int32_t dst, int32_t p0, int32_t p1);
size_t  llama_state_seq_get_size_ext(llama_context * ctx, int32_t seq, uint32_t flags);
size_t  llama_state_seq_get_data_ext(llama_context * ctx, uint8_t * dst, size_t size, int32_t seq, uint32_t flags);
size_t  llama_state_seq_set_data_ext(llama_context * ctx, const uint8_t * src, size_t size, int32_t seq, uint32_t flags);
bool    llama_memory_seq_rm(llama_memory_i * mem, int32_t seq, int32_t p0, int32_t p1);
}

extern int          LLAMA_BUILD_NUMBER;
extern char const * LLAMA_COMMIT;

namespace {

// The status that no guarded function returns by itself.
constexpr int32_t THROWN = INT32_MIN;

template <typename Call> int32_t guarded(char * message, size_t message_bytes, Call call) {
    try {
        return call();
    } catch (const std::exception & error) {
        std::snprintf(message, message_bytes, "%s", error.what());
    } catch (...) {
        std::snprintf(message, message_bytes, "an exception without a message");
    }
    return THROWN;
}

}  // namespace

extern "C" {

size_t aluco_guard_batch_bytes(void) { return sizeof(llama_batch); }

int32_t aluco_build_number(void) { return LLAMA_BUILD_NUMBER; }

const char * aluco_build_commit(void) { return LLAMA_COMMIT; }

// Decodes and waits for the result, so that asynchronous failures surface here as well.
int32_t aluco_decode(llama_context * ctx, const llama_batch * batch, char * message, size_t message_bytes) {
    return guarded(message, message_bytes, [&] {
        const int32_t status = llama_decode(ctx, *batch);
        llama_synchronize(ctx);
        return status;
    });
}

int32_t aluco_logits(llama_context * ctx, int32_t row, float ** logits, char * message, size_t message_bytes) {
    return guarded(message, message_bytes, [&] {
        *logits = llama_get_logits_ith(ctx, row);
        return *logits ? 0 : -1;
    });
}

int32_t aluco_tokenize(const llama_vocab * vocab, const char * text, int32_t text_len, int32_t * tokens, int32_t n_tokens_max,
                       bool add_special, bool parse_special, char * message, size_t message_bytes) {
    return guarded(message, message_bytes, [&] {
        return llama_tokenize(vocab, text, text_len, tokens, n_tokens_max, add_special, parse_special);
    });
}

int32_t aluco_token_to_piece(const llama_vocab * vocab, int32_t token, char * text, int32_t text_len_max, bool special, char * message,
                             size_t message_bytes) {
    return guarded(message, message_bytes, [&] { return llama_token_to_piece(vocab, token, text, text_len_max, 0, special); });
}

int32_t aluco_detokenize(const llama_vocab * vocab, const int32_t * tokens, int32_t n_tokens, char * text, int32_t text_len_max,
                         char * message, size_t message_bytes) {
    return guarded(message, message_bytes,
                   [&] { return llama_detokenize(vocab, tokens, n_tokens, text, text_len_max, false, true); });
}

int32_t aluco_seq_cp(llama_memory_i * mem, int32_t src, int32_t dst, int32_t p0, int32_t p1, char * message, size_t message_bytes) {
    return guarded(message, message_bytes, [&] {
        llama_memory_seq_cp(mem, src, dst, p0, p1);
        return 0;
    });
}

int32_t aluco_seq_size(llama_context * ctx, int32_t seq, uint32_t flags, size_t * bytes, char * message, size_t message_bytes) {
    return guarded(message, message_bytes, [&] {
        *bytes = llama_state_seq_get_size_ext(ctx, seq, flags);
        return 0;
    });
}

int32_t aluco_seq_export(llama_context * ctx, int32_t seq, uint32_t flags, uint8_t * data, size_t bytes, size_t * written,
                         char * message, size_t message_bytes) {
    return guarded(message, message_bytes, [&] {
        *written = llama_state_seq_get_data_ext(ctx, data, bytes, seq, flags);
        return 0;
    });
}

int32_t aluco_seq_import(llama_context * ctx, int32_t seq, uint32_t flags, const uint8_t * data, size_t bytes, char * message,
                         size_t message_bytes) {
    return guarded(message, message_bytes,
                   [&] { return llama_state_seq_set_data_ext(ctx, data, bytes, seq, flags) == bytes ? 0 : -1; });
}

int32_t aluco_seq_rm(llama_memory_i * mem, int32_t seq, int32_t begin, char * message, size_t message_bytes) {
    return guarded(message, message_bytes, [&] { return llama_memory_seq_rm(mem, seq, begin, -1) ? 0 : -1; });
}
}
