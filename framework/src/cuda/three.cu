// One row x times three matrices of as many columns. Blocks are dealt out to them in turn; a warp makes ROWS rows.
const int each = ROWS * (blockDim.x / 32);
const int chunks = a_shape[1] / STORED<BITS>;
int block = blockIdx.x;
int N = a_shape[0];
Packed<T, BITS, GROUP> matrix(a, a_scales, a_biases, chunks);
T* y = a_y;
if (block >= (N + each - 1) / each) {
  block -= (N + each - 1) / each;
  N = b_shape[0];
  matrix = Packed<T, BITS, GROUP>(b, b_scales, b_biases, chunks);
  y = b_y;
  if (block >= (N + each - 1) / each) {
    block -= (N + each - 1) / each;
    N = c_shape[0];
    matrix = Packed<T, BITS, GROUP>(c, c_scales, c_biases, chunks);
    y = c_y;
  }
}
const int row = block * each + threadIdx.x / 32 * ROWS;
if (row >= N) return;
size_t rows[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; r++) rows[r] = min(row + r, N - 1);
float sums[ROWS] = {};
shares<T, BITS, GROUP, ROWS>(matrix, rows, reinterpret_cast<const uint4*>(x), sums);
#pragma unroll
for (int r = 0; r < ROWS; r++) {
  const float sum = sum_of_warp(sums[r]);
  if (threadIdx.x % 32 == 0 && row + r < N) y[row + r] = T(sum);
}
