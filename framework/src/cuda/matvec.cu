// y[b, n] = Σ_k x[b, k] · W[index(b), n, k]. A warp makes ROWS rows of y. Without GATHER, index is any array.
const int N = w_shape[AXES - 2];
const int chunks = w_shape[AXES - 1] / STORED<BITS>;
const int row = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * ROWS;
if (row >= N) return;
const int b = blockIdx.y;
const Packed<T, BITS, GROUP> matrix(w, scales, biases, chunks);
const size_t first = GATHER ? size_t(static_cast<int>(index[b])) * N : 0;
size_t rows[ROWS];
// Rows past the end are read as the last one, and not written.
#pragma unroll
for (int r = 0; r < ROWS; r++) rows[r] = first + min(row + r, N - 1);
float sums[ROWS] = {};
shares<T, BITS, GROUP, ROWS>(matrix, rows, reinterpret_cast<const uint4*>(x) + size_t(b) * chunks * (V<BITS> / 8), sums);
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  const float sum = sum_of_warp(sums[r]);
  if (threadIdx.x % 32 == 0 && row + r < N) y[size_t(b) * N + row + r] = T(sum);
}
