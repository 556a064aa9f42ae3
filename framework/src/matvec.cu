// y[b, n] = Σ_k x[b, k] · W[index(b), n, k], with W as integers of BITS bits and a scale and a bias for each GROUP of them.
// A warp makes ROWS rows of y; a lane reads 16 bytes of each at a time. Without GATHER, index is any array.
constexpr int V = 128 / BITS;
const int N = w_shape[1];
constexpr int P = 32 / BITS;
const int K = w_shape[2] * P;
const int lane = threadIdx.x % 32;
const int row = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * ROWS;
if (row >= N) return;
const int b = blockIdx.y;
const size_t first = GATHER ? size_t(static_cast<int>(index[b])) * N : 0;
const uint4* words[ROWS];
size_t groups[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  // Rows past the end are read as the last one, and not written.
  const size_t here = first + min(row + r, N - 1);
  words[r] = reinterpret_cast<const uint4*>(w) + here * (K / V);
  groups[r] = here * (K / GROUP);
}
const uint4* from = reinterpret_cast<const uint4*>(x) + size_t(b) * (K / 8);
float sums[ROWS] = {};
#pragma unroll 2
for (int k = lane; k < K / V; k += 32) {
  uint4 read[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) read[r] = __ldcs(words[r] + k);
  float xs[V], sum = 0;
#pragma unroll
  for (int i = 0; i < V / 8; i++) {
    const uint4 eight = from[k * (V / 8) + i];
    const T* each = reinterpret_cast<const T*>(&eight);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      xs[i * 8 + j] = float(each[j]);
      sum += xs[i * 8 + j];
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    const unsigned part[4] = {read[r].x, read[r].y, read[r].z, read[r].w};
    float dot = 0;
#pragma unroll
    for (int j = 0; j < V; j++) dot += float((part[j / P] >> (j % P * BITS)) & ((1u << BITS) - 1)) * xs[j];
    const size_t g = groups[r] + k * V / GROUP;
    sums[r] += float(scales[g]) * dot + float(biases[g]) * sum;
  }
}
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  float sum = sums[r];
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffff, sum, apart);
  if (lane == 0 && row + r < N) y[size_t(b) * N + row + r] = T(sum);
}
