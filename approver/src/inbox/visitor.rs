//! Who is at the browser: the session behind a cookie, and the token its forms carry.
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect};
use subtle::ConstantTimeEq as _;
use syshold_protocol::Digest;

use super::{COOKIE, Page, page, pages};
use crate::desk::Desk;
use crate::host_api::now;
use crate::http::Fault;
use crate::store::people::Account;
use crate::token;

/// Who is at the browser.
pub(super) enum Visitor {
    SignedIn(Session),
    /// Came by a link from elsewhere: the browser holds the cookie back, and sends it at a reload.
    FromElsewhere,
    Stranger,
}

pub(super) struct Session {
    pub(super) account: Account,
    pub(super) csrf: String,
}

impl Visitor {
    pub(super) fn signed_in(self, path: &str) -> Result<Session, Page> {
        match self {
            Self::SignedIn(session) => Ok(session),
            Self::FromElsewhere => Err(Page(Box::new(page(StatusCode::OK, pages::reload())))),
            Self::Stranger => {
                let to = if path == "/" {
                    "/login".to_owned()
                } else {
                    format!("/login?next={path}")
                };
                Err(Page(Box::new(Redirect::to(&to).into_response())))
            }
        }
    }

    /// For a form: signed in, and the form is one of that session's.
    pub(super) fn posting(self, csrf: &str) -> Result<Session, Page> {
        Ok(Self::own(self.signed_in("/")?, csrf)?)
    }

    /// For the stream of changes, which says nothing but that there are some.
    pub(super) fn watching(self) -> Result<(), Fault> {
        match self {
            Self::SignedIn(_) => Ok(()),
            Self::FromElsewhere | Self::Stranger => Err(Fault::not_found()),
        }
    }

    /// The same for a script.
    pub(super) fn calling(self, csrf: &str) -> Result<Session, Fault> {
        let session = self.signed_in("/").map_err(|_| {
            let title = "You are signed out";
            Fault::new(StatusCode::UNAUTHORIZED, "signed_out", title)
                .detail("load the page again and sign in")
        })?;
        Self::own(session, csrf)
    }

    fn own(session: Session, csrf: &str) -> Result<Session, Fault> {
        if bool::from(session.csrf.as_bytes().ct_eq(csrf.as_bytes())) {
            return Ok(session);
        }
        Err(Fault::new(
            StatusCode::FORBIDDEN,
            "csrf",
            "This form is not from your session",
        )
        .detail("go back, load the page again, and answer again"))
    }
}

impl FromRequestParts<Arc<Desk>> for Visitor {
    type Rejection = Page;

    async fn from_request_parts(parts: &mut Parts, desk: &Arc<Desk>) -> Result<Self, Page> {
        let Some(session) = cookie(&parts.headers) else {
            let elsewhere = fetch_site(&parts.headers).is_some_and(|site| site == "cross-site");
            return Ok(if elsewhere && parts.method == "GET" {
                Self::FromElsewhere
            } else {
                Self::Stranger
            });
        };
        let account = desk
            .store
            .account_by_session(token::digest(session), now())
            .await?;
        let csrf = Digest::of(format!("csrf {session}").as_bytes()).to_string();
        Ok(account.map_or(Self::Stranger, |account| {
            Self::SignedIn(Session { account, csrf })
        }))
    }
}

pub(super) fn cookie(headers: &HeaderMap) -> Option<&str> {
    cookie_named(headers, COOKIE)
}

pub(super) fn cookie_named<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

fn fetch_site(headers: &HeaderMap) -> Option<&str> {
    headers
        .get("sec-fetch-site")
        .and_then(|value| value.to_str().ok())
}

/// Nobody signs anybody in from another site.
pub(super) fn same_site(headers: &HeaderMap) -> Result<(), Fault> {
    match fetch_site(headers) {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => Err(Fault::new(
            StatusCode::FORBIDDEN,
            "csrf",
            "This form is from another site",
        )),
    }
}
