//! What a repository is called.

use crate::{Error, Result};
use std::fmt;

/// A model's repository at a revision, written `hf:owner/name` or `hf:owner/name@revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    repository: String,
    revision: String,
}

/// What a name begins with, so that it is no id and no path.
const SCHEME: &str = "hf:";

/// The revision of a name that says none.
const MAIN: &str = "main";

impl Name {
    /// The repository that a wish names; nothing for an id or a path.
    ///
    /// # Errors
    /// When it begins like a name and is none.
    pub fn of(wish: &str) -> Result<Option<Self>> {
        let Some(rest) = wish.strip_prefix(SCHEME) else { return Ok(None) };
        let (repository, revision) = rest.split_once('@').unwrap_or((rest, MAIN));
        let owned = repository.split('/').count() == 2 && is_plain(repository);
        if !owned || !is_plain(revision) {
            let problem = format!("is no repository; write `{SCHEME}owner/name` or `{SCHEME}owner/name@revision`");
            return Err(Error::Hub { name: wish.to_owned(), problem });
        }
        Ok(Some(Self { repository: repository.to_owned(), revision: revision.to_owned() }))
    }

    /// The repository `owner/name` at its main revision.
    pub(crate) fn main(repository: &str) -> Self {
        Self { repository: repository.to_owned(), revision: MAIN.to_owned() }
    }

    /// `owner/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// A branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// What is wrong with it.
    pub(super) fn fault(&self, problem: impl Into<String>) -> Error {
        Error::Hub { name: self.to_string(), problem: problem.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repository)?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// Whether a relative path stays below where it begins, and needs no escape in a URL.
pub(super) fn is_plain(path: &str) -> bool {
    let sign = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    path.split('/').all(|part| !part.is_empty() && !part.starts_with("..") && part != "." && part.chars().all(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_ids_and_paths() {
        for (wish, repository, revision) in [
            ("hf:a/b", "a/b", "main"),
            ("hf:mlx-community/Llama-3.2-1B_4bit@refs/pr/1", "mlx-community/Llama-3.2-1B_4bit", "refs/pr/1"),
        ] {
            let name = Name::of(wish).unwrap().unwrap();
            assert_eq!((name.repository(), name.revision(), name.to_string().as_str()), (repository, revision, wish));
        }
        assert_eq!(Name::of("smollm2-135m-instruct").unwrap(), None);
        for wish in [
            "hf:",
            "hf:a",
            "hf:a/b/c",
            "hf:a/..",
            "hf:../b",
            "hf:a/b@",
            "hf:a/b@../x",
            "hf:a/b@/x",
            "hf:a/b c",
            "hf:a/b?",
        ] {
            assert!(Name::of(wish).unwrap_err().to_string().contains("owner/name"), "{wish}");
        }
    }
}
