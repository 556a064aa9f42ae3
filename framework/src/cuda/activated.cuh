// As Activation has them: SiLU, GELU, GELU by tanh, quick GELU, ReLU, ReLU².
template <int ACTIVATION>
__device__ float activated(float x) {
  if (ACTIVATION == 0) return x / (1 + expf(-x));
  if (ACTIVATION == 1) return 0.5f * x * (1 + erff(x * 0.7071067811865476f));
  if (ACTIVATION == 2) return 0.5f * x * (1 + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
  if (ACTIVATION == 3) return x / (1 + expf(-1.702f * x));
  const float positive = fmaxf(x, 0.0f);
  return ACTIVATION == 4 ? positive : positive * positive;
}
