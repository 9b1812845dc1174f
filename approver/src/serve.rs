//! The service: two listeners over one desk, until a signal.
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum_server::Handle;
use axum_server::accept::NoDelayAcceptor;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use syshold_protocol::RequestId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::channels::slack::interactive;
use crate::channels::{ChannelError, Hub, Queues};
use crate::config::Config;
use crate::desk::Desk;
use crate::evidence::{Evidence, EvidenceError};
use crate::host_api::{self, HostApi, now};
use crate::http::{self, Slots};
use crate::inbox;
use crate::keys::{self, Keys, KeysError, RENEW_EVERY};
use crate::limit::Limited;
use crate::limits::Prompts;
use crate::metrics;
use crate::oidc::Oidc;
use crate::openapi;
use crate::passkeys::Site;
use crate::people_api;
use crate::store::{Changes, Store, StoreError};

/// How many calls that bring something run at once on one listener; bodies are read fewer at once
/// ([`http::body`]).
const MAX_CALLS: usize = 2 * 1024;
/// How many calls that only look: a long-poll is one, and every waiting request has one.
const MAX_LOOKS: usize = 14 * 1024;
/// How many connections one listener has.
const MAX_CONNECTIONS: usize = 8192;
/// How many scrapes run at once.
const MAX_SCRAPES: usize = 8;
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
    Channel(#[from] ChannelError),
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
    /// Where the metrics are, if anywhere.
    pub metrics: Option<SocketAddr>,
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
        let (store, changes) = Store::of(config, true)?;
        if changes.is_some() {
            store.check_keys(&keys.named())?;
        }
        let evidence = Evidence::open(&config.dir, &keys).await?;
        let inbox_url = config.inbox_url(keys.names());
        let mut desk = Desk::new(store, keys.decision.clone(), evidence, config.limits);
        desk.site = Site::of(&inbox_url);
        desk.shared = changes.is_some();
        desk.roster = Arc::new(config.roster.clone());
        let provider = config.oidc.as_ref();
        desk.oidc = provider
            .map(|settings| Oidc::open(settings, &inbox_url))
            .transpose()?;
        let desk = Arc::new(desk);
        desk.settle(now()).await.map_err(settled)?;

        let (stopping, stop) = watch::channel(false);
        let (filed, announced) = mpsc::channel(1024);
        let prompts = Prompts::new(config.limits.prompts_per_agent);
        let (hub, queues) = Hub::open(&config.channels, &inbox_url, Arc::clone(&desk), prompts)?;
        let api = HostApi {
            desk: Arc::clone(&desk),
            ca_pem: keys.ca_pem().into(),
            key: keys.decision.public(),
            witness: Arc::clone(&keys.witness),
            stopping: stop.clone(),
            polls: Arc::default(),
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
            host_api::routes(api).merge(openapi::routes(openapi::HOSTS)),
        )?;
        let people = people_api::routes(Arc::clone(&desk))
            .merge(inbox::routes(Arc::clone(&desk)))
            .merge(openapi::routes(openapi::PEOPLE))
            .merge(interactive::routes(Arc::clone(&hub)))
            .fallback(http::no_path);
        let (people, people_handle) = listen(
            &mut tasks,
            config.people_listen,
            "people_listen",
            people_tls.clone(),
            people,
        )?;
        tasks.spawn(tick(Arc::clone(&desk), stop.clone()));
        if let Some(changes) = changes {
            tasks.spawn(hear(Arc::clone(&desk), changes, stop.clone()));
        }
        tasks.spawn(notify(hub, queues, announced, stop.clone()));
        let metrics = match config.metrics_listen {
            Some(address) => Some(
                plain(
                    &mut tasks,
                    address,
                    metrics::routes(Arc::clone(&desk)),
                    stop.clone(),
                )
                .await?,
            ),
            None => None,
        };
        let renewed = if config.people_tls.is_some() {
            vec![hosts_tls]
        } else {
            vec![hosts_tls, people_tls]
        };
        tasks.spawn(renew(keys, names, renewed, stop));
        Ok(Self {
            hosts,
            people,
            metrics,
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
    let slots = Slots::new(MAX_LOOKS, MAX_CALLS);
    let app = routes
        .layer(from_fn_with_state(slots, http::bounded))
        .layer(from_fn(http::hardened));
    // An answer is a header and a body: with Nagle's algorithm the second waits 40 ms for an acknowledgement.
    let tls = RustlsAcceptor::new(tls).acceptor(NoDelayAcceptor::new());
    let mut server = axum_server::from_tcp(listener)
        .map_err(at)?
        .acceptor(Limited::new(tls, MAX_CONNECTIONS))
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

async fn notify(
    hub: Arc<Hub>,
    queues: Queues,
    filed: mpsc::Receiver<RequestId>,
    stop: watch::Receiver<bool>,
) -> io::Result<()> {
    hub.run(queues, filed, stop).await;
    Ok(())
}

/// A listener without TLS, for what is no secret.
async fn plain(
    tasks: &mut JoinSet<io::Result<()>>,
    address: SocketAddr,
    routes: Router,
    mut stop: watch::Receiver<bool>,
) -> Result<SocketAddr, ServeError> {
    let at = |source| ServeError::Listen {
        address,
        key: "metrics_listen",
        source,
    };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(at)?;
    let bound = listener.local_addr().map_err(at)?;
    let slots = Slots::new(MAX_SCRAPES, MAX_SCRAPES);
    let app = routes
        .layer(from_fn_with_state(slots, http::bounded))
        .layer(from_fn(http::hardened));
    tasks.spawn(async move {
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        axum::serve(listener, app)
            .with_graceful_shutdown(stopped)
            .await
    });
    Ok(bound)
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

/// What other gateways change wakes whoever waits here.
async fn hear(
    desk: Arc<Desk>,
    mut changes: Changes,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            change = changes.next() => desk.heard(change),
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
    }
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
