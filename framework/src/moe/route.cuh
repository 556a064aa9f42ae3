// As Scoring has them.
constexpr int SOFTMAX = 0, SOFTMAX_OF_CHOSEN = 1, SIGMOID = 2;
