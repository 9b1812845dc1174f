//! The service: two listeners over one desk, until a signal.
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum_server::Handle;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use syshold_protocol::RequestId;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::desk::Desk;
use crate::evidence::{Evidence, EvidenceError};
use crate::host_api::{self, HostApi, now};
use crate::http;
use crate::inbox;
use crate::keys::{self, Keys, KeysError, RENEW_EVERY};
use crate::limit::Limited;
use crate::people_api;
use crate::slack::{Slack, SlackError};
use crate::store::{Store, StoreError};

/// How many calls run at once on one listener; a long-poll is one.
const MAX_CALLS: usize = 4096;
/// How many connections one listener has.
const MAX_CONNECTIONS: usize = 8192;
const HEADER_TIME: Duration = Duration::from_secs(20);
/// How long calls may take to end once the service stops.
const GRACE: Duration = Duration::from_secs(5);
/// How often holds that nobody polls are looked after.
const SETTLE_EVERY: Duration = Duration::from_secs(1);

/// Why the service does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error(transparent)]
    Slack(#[from] SlackError),
    #[error("cannot listen on {address} ({source}); set {key} in the configuration")]
    Listen {
        address: SocketAddr,
        key: &'static str,
        source: io::Error,
    },
    #[error("a listener stopped: {0}")]
    Stopped(io::Error),
}

/// A running gateway.
#[expect(missing_debug_implementations, reason = "holds the desk with its key")]
pub struct Gateway {
    /// The address really used, also when the configuration says port 0.
    pub hosts: SocketAddr,
    /// See `hosts`.
    pub people: SocketAddr,
    /// What people's browsers are sent to.
    pub inbox_url: String,
    desk: Arc<Desk>,
    stopping: watch::Sender<bool>,
    handles: [Handle<SocketAddr>; 2],
    tasks: JoinSet<io::Result<()>>,
}

impl Gateway {
    /// Opens state and both listeners. Both accept when this returns.
    pub async fn start(config: &Config) -> Result<Self, ServeError> {
        let keys = Keys::open_or_init(&config.dir, &[])?;
        let store = Store::open(&config.dir)?;
        let evidence = Evidence::open(&config.dir, &keys).await?;
        let desk = Arc::new(Desk::new(
            store,
            keys.decision.clone(),
            evidence,
            config.max_pending_per_host,
        ));
        desk.settle(now()).await.map_err(settled)?;

        let (stopping, stop) = watch::channel(false);
        let (filed, announced) = mpsc::channel(1024);
        let inbox_url = config.inbox_url(keys.names());
        let slack = config
            .slack_webhook_url_file
            .as_deref()
            .map(|path| Slack::from_file(path, &inbox_url))
            .transpose()?;
        let api = HostApi {
            desk: Arc::clone(&desk),
            ca_pem: keys.ca_pem().into(),
            key: keys.decision.public(),
            stopping: stop.clone(),
            filed,
        };
        let names = config.certificate_names();
        let own = keys.server_config(&names)?;
        let hosts_tls = RustlsConfig::from_config(Arc::clone(&own));
        let people_tls = RustlsConfig::from_config(match &config.people_tls {
            Some(files) => keys::server_config_from(files)?,
            None => own,
        });

        let mut tasks = JoinSet::new();
        let (hosts, hosts_handle) = listen(
            &mut tasks,
            config.host_listen,
            "host_listen",
            hosts_tls.clone(),
            host_api::routes(api),
        )?;
        let people = people_api::routes(Arc::clone(&desk))
            .merge(inbox::routes(Arc::clone(&desk)))
            .fallback(http::no_path);
        let (people, people_handle) = listen(
            &mut tasks,
            config.people_listen,
            "people_listen",
            people_tls.clone(),
            people,
        )?;
        tasks.spawn(tick(Arc::clone(&desk), stop.clone()));
        tasks.spawn(notify(slack, Arc::clone(&desk), announced, stop.clone()));
        let renewed = if config.people_tls.is_some() {
            vec![hosts_tls]
        } else {
            vec![hosts_tls, people_tls]
        };
        tasks.spawn(renew(keys, names, renewed, stop));
        Ok(Self {
            hosts,
            people,
            inbox_url,
            desk,
            stopping,
            handles: [hosts_handle, people_handle],
            tasks,
        })
    }

    /// Runs until `signal`, then ends calls and listeners.
    pub async fn until(mut self, signal: impl Future<Output = ()>) -> Result<(), ServeError> {
        let ended = tokio::select! {
            () = signal => None,
            ended = self.tasks.join_next() => ended,
        };
        self.stopping.send_replace(true);
        for handle in &self.handles {
            handle.graceful_shutdown(Some(GRACE));
        }
        while self.tasks.join_next().await.is_some() {}
        self.desk.close().await;
        match ended {
            Some(Ok(Err(error))) => Err(ServeError::Stopped(error)),
            _ => Ok(()),
        }
    }
}

fn settled(error: crate::desk::DeskError) -> ServeError {
    match error {
        crate::desk::DeskError::Store(error) => error.into(),
        crate::desk::DeskError::Evidence(error) => error.into(),
        error => ServeError::Stopped(io::Error::other(error.to_string())),
    }
}

fn listen(
    tasks: &mut JoinSet<io::Result<()>>,
    address: SocketAddr,
    key: &'static str,
    tls: RustlsConfig,
    routes: Router,
) -> Result<(SocketAddr, Handle<SocketAddr>), ServeError> {
    let at = |source| ServeError::Listen {
        address,
        key,
        source,
    };
    let listener = TcpListener::bind(address).map_err(at)?;
    listener.set_nonblocking(true).map_err(at)?;
    let bound = listener.local_addr().map_err(at)?;
    let handle = Handle::new();
    let slots = Arc::new(Semaphore::new(MAX_CALLS));
    let app = routes
        .layer(from_fn_with_state(slots, http::bounded))
        .layer(from_fn(http::hardened));
    let mut server = axum_server::from_tcp(listener)
        .map_err(at)?
        .acceptor(Limited::new(RustlsAcceptor::new(tls), MAX_CONNECTIONS))
        .handle(handle.clone());
    let builder = server.http_builder();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1024)
        .keep_alive_interval(HEADER_TIME);
    tasks.spawn(server.serve(app.into_make_service()));
    Ok((bound, handle))
}

/// Without a channel, requests are only in the inbox; the queue is emptied all the same.
async fn notify(
    slack: Option<Slack>,
    desk: Arc<Desk>,
    mut filed: mpsc::Receiver<RequestId>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    match slack {
        Some(slack) => slack.run(desk, filed, stop).await,
        None => tokio::select! {
            () = async { while filed.recv().await.is_some() {} } => {}
            _ = stop.wait_for(|stop| *stop) => {}
        },
    }
    Ok(())
}

async fn tick(desk: Arc<Desk>, mut stop: watch::Receiver<bool>) -> io::Result<()> {
    while tokio::time::timeout(SETTLE_EVERY, stop.wait_for(|stop| *stop))
        .await
        .is_err()
    {
        if let Err(error) = desk.settle(now()).await {
            tracing::error!(%error, "cannot settle");
        }
    }
    Ok(())
}

async fn renew(
    keys: Keys,
    names: Vec<String>,
    tls: Vec<RustlsConfig>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    while tokio::time::timeout(RENEW_EVERY, stop.wait_for(|stop| *stop))
        .await
        .is_err()
    {
        match keys.server_config(&names) {
            Ok(fresh) => tls
                .iter()
                .for_each(|tls| tls.reload_from_config(Arc::clone(&fresh))),
            Err(error) => tracing::error!(%error, "the certificate was not renewed"),
        }
    }
    Ok(())
}
