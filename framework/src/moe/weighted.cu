// y[t, n] = Σ_b weights[b] · (x[b] · w[index[b], n]) over the CHOSEN experts b of the token t. A warp makes ROWS rows of y, and
// goes over all experts' rows as if they were one.
const int N = w_shape[AXES - 2];
const int chunks = w_shape[AXES - 1] / STORED<BITS>;
const int lane = threadIdx.x % 32;
const int row = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * ROWS;
if (row >= N) return;
const size_t t = blockIdx.y;
const Packed<T, BITS, GROUP> matrix(w, scales, biases, chunks);
const uint4* from = reinterpret_cast<const uint4*>(x) + t * CHOSEN * chunks * (V<BITS> / 8);
float sums[ROWS] = {};
#pragma unroll 4
for (int k = lane; k < CHOSEN * chunks; k += 32) {
  const size_t b = t * CHOSEN + k / chunks;
  const int chunk = k % chunks;
  const size_t first = size_t(static_cast<int>(index[b])) * N;
  uint4 read[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; r++) read[r] = matrix.read(first + min(row + r, N - 1), chunk);
  float xs[V<BITS>];
  const float sum = widen<T, BITS>(from + k * (V<BITS> / 8), xs);
  const float weight = float(weights[b]);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    sums[r] += weight * matrix.dot(read[r], first + min(row + r, N - 1), chunk, xs, sum);
  }
}
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  const float sum = sum_of_warp(sums[r]);
  if (lane == 0 && row + r < N) y[t * N + row + r] = T(sum);
}
