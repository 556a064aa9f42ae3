// Of numbers of BITS bits, as many as 16 bytes hold.
template <int BITS>
constexpr int V = 128 / BITS;

// As many elements of their array: words of 32 bits, or numbers as they are.
template <int BITS>
constexpr int STORED = BITS == 16 ? 8 : 4;

// V numbers of x in f32; returns their sum.
template <typename T, int BITS>
__device__ float widen(const uint4* from, float* to) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < V<BITS> / 8; i++) {
    const uint4 eight = from[i];
    const T* each = reinterpret_cast<const T*>(&eight);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      to[i * 8 + j] = float(each[j]);
      sum += to[i * 8 + j];
    }
  }
  return sum;
}

// Rows of numbers of 16 bits, or of integers with a scale and a bias for each GROUP of them.
template <typename T, int BITS, int GROUP>
struct Packed {
  const uint4* words;
  const T* scales;
  const T* biases;
  // How many times V numbers make a row.
  int chunks;

  __device__ Packed(const void* words, const T* scales, const T* biases, int chunks)
      : words(static_cast<const uint4*>(words)), scales(scales), biases(biases), chunks(chunks) {}

  __device__ uint4 read(size_t row, int chunk) const { return __ldcs(words + row * chunks + chunk); }

  // What was read there, times numbers of that sum.
  __device__ float dot(uint4 read, size_t row, int chunk, const float* xs, float sum) const {
    float dot = 0;
    if constexpr (BITS == 16) {
      const T* numbers = reinterpret_cast<const T*>(&read);
#pragma unroll
      for (int j = 0; j < V<BITS>; j++) dot += float(numbers[j]) * xs[j];
      return dot;
    }
    constexpr int P = 32 / BITS;
    const unsigned part[4] = {read.x, read.y, read.z, read.w};
#pragma unroll
    for (int j = 0; j < V<BITS>; j++) dot += float((part[j / P] >> (j % P * BITS)) & ((1u << BITS) - 1)) * xs[j];
    const size_t group = (row * chunks + chunk) * V<BITS> / GROUP;
    return float(scales[group]) * dot + float(biases[group]) * sum;
  }
};

// x · w[rows[r]] for each of ROWS rows. The lanes of a warp read 16 bytes of each at a time; a lane returns its share.
template <typename T, int BITS, int GROUP, int ROWS>
__device__ void shares(const Packed<T, BITS, GROUP>& w, const size_t* rows, const uint4* x, float* sums) {
#pragma unroll 2
  for (int k = threadIdx.x % 32; k < w.chunks; k += 32) {
    uint4 read[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; r++) read[r] = w.read(rows[r], k);
    float xs[V<BITS>];
    const float sum = widen<T, BITS>(x + k * (V<BITS> / 8), xs);
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[r] += w.dot(read[r], rows[r], k, xs, sum);
  }
}
