// The CHOSEN best of EXPERTS logits of a token, best first, and their weights. A warp a token; lane l has the logits of the
// experts l, l + 32, … . Without CORRECTED, correction is any array.
constexpr int PER = (EXPERTS + 31) / 32;
const int lane = threadIdx.x;
const int t = blockIdx.x;
float scores[PER];
float most = negative_infinity();
#pragma unroll
for (int i = 0; i < PER; i++) {
  const int e = i * 32 + lane;
  scores[i] = e < EXPERTS ? float(logits[size_t(t) * EXPERTS + e]) : negative_infinity();
  most = fmaxf(most, scores[i]);
}
if (SCORING == SOFTMAX) {
  most = max_of_warp(most);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < PER; i++) sum += scores[i] = expf(scores[i] - most);
  sum = sum_of_warp(sum);
#pragma unroll
  for (int i = 0; i < PER; i++) scores[i] /= sum;
}
if (SCORING == SIGMOID) {
#pragma unroll
  for (int i = 0; i < PER; i++) scores[i] = 1 / (1 + expf(-scores[i]));
}
unsigned taken = 0;
float weight = 0;
int chosen = 0;
for (int place = 0; place < CHOSEN; place++) {
  float best = negative_infinity(), score = 0;
  int at = EXPERTS;
#pragma unroll
  for (int i = 0; i < PER; i++) {
    const int e = i * 32 + lane;
    if (e >= EXPERTS || taken >> i & 1) continue;
    const float rank = CORRECTED ? scores[i] + float(correction[e]) : scores[i];
    if (at == EXPERTS || rank > best) {
      best = rank;
      score = scores[i];
      at = e;
    }
  }
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    const float other = __shfl_xor_sync(0xffffffff, best, apart);
    const float its_score = __shfl_xor_sync(0xffffffff, score, apart);
    const int there = __shfl_xor_sync(0xffffffff, at, apart);
    if (there < EXPERTS && (at == EXPERTS || other > best || (other == best && there < at))) {
      best = other;
      score = its_score;
      at = there;
    }
  }
  // Lanes may differ where a logit is not a number.
  at = __shfl_sync(0xffffffff, at, 0);
  score = __shfl_sync(0xffffffff, score, 0);
  if (at % 32 == lane) taken |= 1u << (at / 32);
  if (place == lane) {
    weight = score;
    chosen = at;
  }
}
const bool writes = lane < CHOSEN;
if (SCORING == SOFTMAX_OF_CHOSEN) {
  most = max_of_warp(writes ? weight : negative_infinity());
  weight = writes ? expf(weight - most) : 0;
  weight /= sum_of_warp(weight);
}
if (NORMALISE) weight /= sum_of_warp(writes ? weight : 0);
if (writes) {
  weights[size_t(t) * CHOSEN + lane] = W(weight * __int_as_float(SCALE));
  indices[size_t(t) * CHOSEN + lane] = chosen;
}
