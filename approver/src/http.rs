//! What both listeners share: problems, bounded bodies, bounded concurrency.
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use syshold_protocol::{MAX_ENVELOPE, Problem, problem};
use tokio::sync::Semaphore;

use crate::desk::DeskError;
use crate::judge::Refusal;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How long any call may take; the longest poll is shorter.
const CALL_TIME: Duration = Duration::from_secs(75);

/// An error answer.
#[derive(Debug)]
pub struct Fault {
    problem: Problem,
    retry_after: Option<u32>,
}

impl Fault {
    /// A problem of the kind `word`.
    pub fn new(status: StatusCode, word: &str, title: &str) -> Self {
        Self {
            problem: Problem::new(status.as_u16(), word, title),
            retry_after: None,
        }
    }

    /// The same with a detail.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.problem = self.problem.detail(detail);
        self
    }

    /// The same, to be tried again after that many seconds.
    #[must_use]
    pub fn retry(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// 404.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is nothing here")
    }

    /// 400.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "malformed",
            "The body does not read",
        )
        .detail(detail)
    }

    /// 422.
    pub fn unacceptable(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "unacceptable",
            "The body reads and makes no sense",
        )
        .detail(detail)
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// For pages: the status, and what to tell the person.
    pub fn into_parts(self) -> (StatusCode, String) {
        let status = self.status();
        let text = match self.problem.detail {
            Some(detail) => format!("{}: {detail}", self.problem.title),
            None => self.problem.title,
        };
        (status, text)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        let mut response = (
            status,
            [(header::CONTENT_TYPE, problem::CONTENT_TYPE)],
            body,
        )
            .into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<DeskError> for Fault {
    fn from(error: DeskError) -> Self {
        match error {
            DeskError::Unknown => Self::not_found(),
            DeskError::Refused(refusal) => refusal.into(),
            DeskError::Decided => {
                Self::new(StatusCode::CONFLICT, "decided", "It was decided already")
            }
            DeskError::TooManyOutcomes => Self::new(
                StatusCode::CONFLICT,
                "conflict",
                "It has too many outcomes already",
            ),
            DeskError::Evidence(error) => {
                tracing::error!(%error, "the ledger takes no leaf");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "ledger", "The gateway's ledger takes no leaf")
                    .detail("what was decided is kept, and handed out once it is recorded; see the gateway's log")
                    .retry(5)
            }
            DeskError::Store(error) => {
                tracing::error!(%error, "state");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "busy",
                    "The gateway cannot read or write its state",
                )
                .retry(5)
            }
            DeskError::Canonical(error) => {
                tracing::error!(%error, "no canonical form");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "The gateway cannot sign this",
                )
            }
        }
    }
}

impl From<crate::store::StoreError> for Fault {
    fn from(error: crate::store::StoreError) -> Self {
        DeskError::from(error).into()
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let (status, word, title) = match refusal {
            Refusal::Decided(_) => (StatusCode::CONFLICT, "decided", "It was decided already"),
            Refusal::AlreadyApproved => (
                StatusCode::CONFLICT,
                "already_approved",
                "You have approved this already",
            ),
            Refusal::SelfApproval => (
                StatusCode::FORBIDDEN,
                "self_approval",
                "You may not approve your own agent",
            ),
            Refusal::OwnOrder => (StatusCode::FORBIDDEN, "own_order", "You signed this order"),
            Refusal::NotInGroup(_) => (StatusCode::FORBIDDEN, "not_in_group", "You are not asked"),
            Refusal::Assurance(_) => (
                StatusCode::FORBIDDEN,
                "assurance",
                "The rule asks for a stronger proof of who you are",
            ),
            Refusal::NotApproved(_) => (
                StatusCode::CONFLICT,
                "not_approved",
                "There is no approval to take back",
            ),
            Refusal::Stale => (
                StatusCode::PRECONDITION_FAILED,
                "stale",
                "What you were shown has changed",
            ),
            Refusal::Scope { .. } => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "scope",
                "That scope is not offered",
            ),
        };
        Self::new(status, word, title).detail(refusal.to_string())
    }
}

/// The whole body, if it is short and comes soon. So many are read at once; the others wait.
pub async fn body(body: Body) -> Result<Bytes, Fault> {
    static READERS: Semaphore = Semaphore::const_new(1024);
    let read = async {
        // Never closed.
        let _seat = READERS.acquire().await;
        to_bytes(body, MAX_ENVELOPE).await
    };
    match tokio::time::timeout(BODY_TIME, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        // Any other error is a client that has gone and reads no answer.
        Ok(Err(_)) => Err(Fault::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The body is longer than 64 KiB",
        )),
        Err(_) => Err(Fault::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow",
            "The body came too slowly",
        )),
    }
}

/// How many calls run at once on one listener. Those without a body wait cheaply, and every request that
/// waits has one; they do not take the place of those that bring something.
#[derive(Debug)]
pub struct Slots {
    looking: Semaphore,
    bringing: Semaphore,
}

impl Slots {
    /// So many GET and HEAD, and so many of all others.
    pub fn new(looking: usize, bringing: usize) -> Arc<Self> {
        Arc::new(Self {
            looking: Semaphore::new(looking),
            bringing: Semaphore::new(bringing),
        })
    }
}

/// Lets so many calls run at once, each for a bounded time; the rest are told to come again.
pub async fn bounded(State(slots): State<Arc<Slots>>, request: Request, next: Next) -> Response {
    let busy = || {
        Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "Too many calls at once",
        )
        .retry(2)
    };
    let slots = match *request.method() {
        Method::GET | Method::HEAD => &slots.looking,
        _ => &slots.bringing,
    };
    let Ok(_slot) = slots.try_acquire() else {
        return busy().into_response();
    };
    match tokio::time::timeout(CALL_TIME, next.run(request)).await {
        Ok(response) => response,
        Err(_) => busy().into_response(),
    }
}

/// Headers of every answer.
pub async fn hardened(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    const ALWAYS: [(HeaderName, &str); 4] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    for (name, value) in ALWAYS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(NO_CONTENT));
    response
}

/// For answers that are no pages.
const NO_CONTENT: &str = "default-src 'none'; frame-ancestors 'none'";

/// 404 for paths, 405 for methods: both as problems.
pub async fn no_path() -> Fault {
    Fault::not_found()
}

/// See [`no_path`].
pub async fn no_method() -> Fault {
    Fault::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "This path has other methods",
    )
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn who_looks_and_who_brings_have_places_of_their_own() {
        let begun = Arc::new(Semaphore::new(0));
        let hang = |begun: Arc<Semaphore>| async move {
            begun.add_permits(1);
            std::future::pending::<()>().await;
        };
        let (looks, brings) = (Arc::clone(&begun), Arc::clone(&begun));
        let routes = get(move || hang(looks)).post(move || hang(brings));
        let app = Router::new()
            .route("/", routes)
            .layer(from_fn_with_state(Slots::new(2, 1), bounded));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let call = |method: &str| {
            let call = format!("{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(call.as_bytes()).await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answer
            })
        };
        let mut hanging = Vec::new();
        for method in ["GET", "GET", "POST"] {
            hanging.push(call(method));
            begun.acquire().await.unwrap().forget();
        }
        for method in ["GET", "HEAD", "POST"] {
            let answer = call(method).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 503 "), "{method}: {answer}");
            assert!(answer.contains("retry-after: 2\r\n"), "{method}: {answer}");
        }
        assert!(hanging.iter().all(|call| !call.is_finished()));
    }
}
