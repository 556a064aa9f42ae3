//! The server: questions, redirects, and what its refusals mean.

use super::Name;
use crate::{Error, Result};
use std::time::Duration;
use ureq::{Agent, Body, http::Response};

/// How long to wait for a connection, and for the beginning of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long one answer may take to arrive; files come in several.
const LONGEST: Duration = Duration::from_secs(600);

/// How often a question may be passed on.
const HOPS: usize = 5;

/// Bytes of the longest list of files.
const LONGEST_LIST: u64 = 32 << 20;

/// A server that speaks as the Hugging Face Hub does.
pub(super) struct Remote<'a> {
    agent: Agent,
    endpoint: &'a str,
    token: Option<&'a str>,
    name: &'a Name,
}

impl<'a> Remote<'a> {
    pub(super) fn new(endpoint: &'a str, token: Option<&'a str>, name: &'a Name) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_recv_body(Some(LONGEST))
            .user_agent(concat!("zoo/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), endpoint, token, name }
    }

    /// A description at a path of the server.
    pub(super) fn text(&self, path: &str) -> Result<String> {
        let mut response = self.get(path, None)?;
        self.expect(&response, &[200])?;
        let body = response.body_mut().with_config().limit(LONGEST_LIST);
        body.read_to_string()
            .map_err(|error| self.name.fault(format!("the list of its files broke off ({error}); try again")))
    }

    /// Bytes `first` to `last` of a file, or all of it where the server knows no ranges.
    pub(super) fn range(&self, path: &str, first: u64, last: u64) -> Result<Response<Body>> {
        let response = self.get(path, Some(format!("bytes={first}-{last}")))?;
        self.expect(&response, &[200, 206])?;
        Ok(response)
    }

    /// Follows redirects, and shows the token to nobody but the server itself.
    fn get(&self, path: &str, range: Option<String>) -> Result<Response<Body>> {
        let mut url = format!("{}/{path}", self.endpoint);
        for _ in 0..HOPS {
            let mut request = self.agent.get(&url);
            if let Some(token) = self.token.filter(|_| origin(&url) == origin(self.endpoint)) {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            if let Some(range) = &range {
                request = request.header("Range", range);
            }
            let response = request.call().map_err(|error| self.unreachable(&url, &error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let next = header(&response, "location").and_then(|to| resolve(&url, to));
            url = next
                .ok_or_else(|| self.name.fault("the server passes it on to a place that is none; try again later"))?;
        }
        Err(self.name.fault("the server passes it on in circles; try again later"))
    }

    fn expect(&self, response: &Response<Body>, fine: &[u16]) -> Result<()> {
        let status = response.status().as_u16();
        if fine.contains(&status) {
            return Ok(());
        }
        let problem = match (status, self.token) {
            (401 | 403, None) => format!(
                "is private, or its licence has to be accepted on {}/{} first, or there is no such repository ({status}); \
                 then set HF_TOKEN to a token of yours",
                self.endpoint,
                self.name.repository()
            ),
            (401 | 403, Some(_)) => format!(
                "is not for the token in use ({status}): accept its licence on {}/{}, or set HF_TOKEN to another token",
                self.endpoint,
                self.name.repository()
            ),
            (404, _) => format!(
                "there is no such repository, or it has no revision `{}` (404); check the spelling",
                self.name.revision()
            ),
            (429, _) => {
                let wait = header(response, "retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
                let wait = wait.map_or("a few minutes".to_owned(), |seconds| format!("{seconds} s"));
                format!(
                    "the server has been asked too often (429); run the same command in {wait}, and it goes on where it stopped"
                )
            }
            (500.., _) => {
                format!("the server failed ({status}); run the same command later, and it goes on where it stopped")
            }
            _ => format!("the server answered with the status {status}, which means nothing here; try again later"),
        };
        Err(self.name.fault(problem))
    }

    fn unreachable(&self, url: &str, error: &ureq::Error) -> Error {
        let place = origin(url).unwrap_or(url);
        self.name.fault(format!("{place} cannot be reached; check the network, the proxy and HF_ENDPOINT ({error})"))
    }
}

/// A header as text.
pub(super) fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// `scheme://host:port` of a URL.
fn origin(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let host = rest.split(['/', '?', '#']).next()?;
    url.get(..scheme.len().checked_add(3)?.checked_add(host.len())?)
}

/// Where a redirect leads; never from an encrypted place to one that is not.
fn resolve(url: &str, to: &str) -> Option<String> {
    let absolute = if to.starts_with('/') { format!("{}{to}", origin(url)?) } else { to.to_owned() };
    let encrypted = |url: &str| url.starts_with("https://");
    let known = encrypted(&absolute) || (absolute.starts_with("http://") && !encrypted(url));
    known.then_some(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_and_never_lose_encryption() {
        assert_eq!(resolve("http://a:1/b/c", "/d?e").as_deref(), Some("http://a:1/d?e"));
        assert_eq!(resolve("https://a/b", "https://c/d").as_deref(), Some("https://c/d"));
        for (from, to) in [("https://a/b", "http://a/b"), ("http://a", "file:///etc/passwd"), ("http://a", "b")] {
            assert_eq!(resolve(from, to), None, "{to}");
        }
        assert_eq!(origin("https://a:1?b"), Some("https://a:1"));
    }
}
