// `std::format` for C++ standard libraries that lack it (GCC 12): plain `{}` placeholders only, which is all that
// mlx-c uses.
#pragma once
#if __has_include(<format>)
#include <format>
#else
#include <sstream>
#include <string>
#include <string_view>
namespace std {
inline void format_into(ostringstream& out, string_view text) {
  out << text;
}
template <typename First, typename... Rest>
void format_into(ostringstream& out, string_view text, const First& first, const Rest&... rest) {
  auto at = text.find("{}");
  if (at == string_view::npos) {
    out << text;
    return;
  }
  out << text.substr(0, at) << first;
  format_into(out, text.substr(at + 2), rest...);
}
template <typename... Args>
string format(string_view text, const Args&... args) {
  ostringstream out;
  format_into(out, text, args...);
  return out.str();
}
} // namespace std
#endif
