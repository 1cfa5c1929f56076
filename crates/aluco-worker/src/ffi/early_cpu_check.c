// Runs before everything else in the process, static constructors of C++ included, which the compiler fills with the instructions that
// this worker is built for: on a CPU without them it would die by SIGILL before `main` could say why. Hence this file is compiled for
// any x86-64 and without optimisation; build.rs says by macros what the rest is compiled for.

#if defined(__x86_64__)
#include <string.h>
#include <unistd.h>

// As in main.rs.
enum { EXIT_WRONG_CPU = 3 };

static void refuse(const char * feature) {
    static const char begin[] = "this worker is built for another CPU: this one lacks ";
    static const char end[] = "; install a worker for this CPU\n";
    if (write(2, begin, sizeof begin - 1) < 0 || write(2, feature, strlen(feature)) < 0 || write(2, end, sizeof end - 1) < 0) {
        // Nobody listens; the status says it too.
    }
    _exit(EXIT_WRONG_CPU);
}

#define NEED(feature) \
    if (!__builtin_cpu_supports(feature)) refuse(feature)

__attribute__((constructor(101))) static void check_cpu(void) {
    __builtin_cpu_init();
#ifdef ALUCO_NEEDS_AVX
    NEED("avx");
#endif
#ifdef ALUCO_NEEDS_AVX2
    NEED("avx2");
#endif
#ifdef ALUCO_NEEDS_FMA
    NEED("fma");
#endif
#ifdef ALUCO_NEEDS_BMI2
    NEED("bmi2");
#endif
#ifdef ALUCO_NEEDS_AVX512F
    NEED("avx512f");
#endif
#ifdef ALUCO_NEEDS_AVX512BW
    NEED("avx512bw");
#endif
#ifdef ALUCO_NEEDS_AVX512VBMI
    NEED("avx512vbmi");
#endif
#ifdef ALUCO_NEEDS_AVX512VNNI
    NEED("avx512vnni");
#endif
#ifdef ALUCO_NEEDS_AVX512BF16
    NEED("avx512bf16");
#endif
}
#endif

// Referred to from Rust, so that the linker takes this file out of its archive.
int aluco_early_cpu_check_is_linked(void) { return 1; }
