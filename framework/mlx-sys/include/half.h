// The 16-bit types that mlx-c's own half.h defines on Arm only. Include before it.
// C sees `_Float16`, from which bindgen makes the `__BindgenFloat16` that mlx-rs expects; C++ passes the bits.
#pragma once
#define MLX_HALF_H
#include <stdint.h>
#define HAS_FLOAT16
#define HAS_BFLOAT16
#ifdef __cplusplus
typedef uint16_t float16_t;
#else
typedef _Float16 float16_t;
#endif
typedef uint16_t bfloat16_t;
