// float16 in 16 bits, rounded to nearest even, as far as the kernels use it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline float __half2float(__half value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  float size = exponent == 31  ? (fraction ? NAN : INFINITY)
               : exponent == 0 ? std::ldexp(float(fraction), -24)
                               : std::ldexp(float(fraction + 1024), exponent - 25);
  return value.bits & 0x8000 ? -size : size;
}

inline __half __float2half_rn(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (std::isnan(size)) return {uint16_t(sign | 0x7e00)};
  if (size >= 65520.0f) return {uint16_t(sign | 0x7c00)};
  if (size < 6.103515625e-05f) {  // below 2^-14: a multiple of 2^-24
    return {uint16_t(sign | uint16_t(std::nearbyint(std::ldexp(size, 24))))};
  }
  uint32_t bits;
  std::memcpy(&bits, &size, sizeof bits);
  bits += 0xfff + (bits >> 13 & 1);
  return {uint16_t(sign | uint16_t((bits >> 13) - (112u << 10)))};
}
