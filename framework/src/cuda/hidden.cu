// y[b, n] = a(x[t] · gate[e, n]) · (x[t] · up[e, n]) for e = index[b], one of the CHOSEN of the token t = b / CHOSEN. A warp makes
// ROWS rows of both. Without GATHER, index is any array.
const int N = gate_shape[AXES - 2];
const int chunks = gate_shape[AXES - 1] / STORED<BITS>;
const int lane = threadIdx.x % 32;
const int row = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * ROWS;
if (row >= N) return;
const int b = blockIdx.y;
const Packed<T, BITS, GROUP> matrices[2] = {
    {gate, gate_scales, gate_biases, chunks}, {up, up_scales, up_biases, chunks}};
const size_t first = GATHER ? size_t(static_cast<int>(index[b])) * N : 0;
size_t rows[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; r++) rows[r] = first + min(row + r, N - 1);
const uint4* from = reinterpret_cast<const uint4*>(x) + size_t(b / CHOSEN) * chunks * (V<BITS> / 8);
float sums[2][ROWS] = {};
#pragma unroll 2
for (int k = lane; k < chunks; k += 32) {
  uint4 read[2][ROWS];
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) read[m][r] = matrices[m].read(rows[r], k);
  }
  float xs[V<BITS>];
  const float sum = widen<T, BITS>(from + k * (V<BITS> / 8), xs);
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[m][r] += matrices[m].dot(read[m][r], rows[r], k, xs, sum);
  }
}
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  const float opening = sum_of_warp(sums[0][r]);
  const float value = sum_of_warp(sums[1][r]);
  if (lane == 0 && row + r < N) y[size_t(b) * N + row + r] = T(activated<ACTIVATION>(opening) * value);
}
