//! Enrolment: the one call that is made before the gateway's CA is known.
//!
//! The token carries the SHA-256 of the CA's certificate. The connection is believed only when
//! the server sends that very certificate and its own one verifies under it, host name and all;
//! the token is sent after that, never before.
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use syshold_protocol::{Digest, EnrolRequest, EnrolResponse, EnrolToken, HostId, PinnedKeys};

use super::gateway::{self, FreshKey, Gateway, GatewayUrl};
use super::http::{self, Cause, JSON, SetUpError};

const LIMIT: Duration = Duration::from_secs(30);
const MAX_GATEWAY_KEYS: usize = 16;
const MAX_KEY_TEXT: usize = 512;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Store(#[from] gateway::Error),
    #[error(transparent)]
    SetUp(#[from] SetUpError),
    #[error("the enrolment cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}; is this token from that gateway?")]
    Tls(Cause),
    #[error("{0}; is the address right, and can this host reach it?")]
    Unreachable(Cause),
    #[error(
        "{0}; a token can be used once, within an hour: make a new one with `syshold-approver enrol`"
    )]
    Refused(Cause),
    #[error("the gateway's answer makes no sense ({0}); are gateway and host the same version?")]
    Answer(&'static str),
}

/// Enrols this host and stores what came of it. Returns the name the gateway gave the host.
pub async fn enrol(
    url: GatewayUrl,
    proxy: Option<String>,
    token: EnrolToken,
    host_name: String,
    state: &Path,
) -> Result<HostId, Error> {
    let pin = token.ca_sha256();
    let client = http::verified_by(Arc::new(PinnedCa::new(pin)), proxy.as_deref())?;
    let fresh = FreshKey::create(state)?;
    let request = EnrolRequest {
        token,
        public_key: fresh.key.public(),
        host_name,
    };
    let body = serde_json::to_vec(&request)?;
    let call = (
        Method::POST,
        url.call("/v1/enrol")
            .ok_or(Error::Answer("the address cannot be extended"))?,
    );
    let answer = http::send(&client, call, &[], Some((JSON, body)), LIMIT)
        .await
        .map_err(|cause| match cause {
            Cause::Tls(_) => Error::Tls(cause),
            Cause::Malformed(what) => Error::Answer(what),
            Cause::Unreachable(_) | Cause::Refused { .. } => Error::Unreachable(cause),
        })?;
    if answer.status != StatusCode::CREATED {
        return Err(Error::Refused(answer.refused()));
    }
    let given: EnrolResponse = serde_json::from_slice(&answer.body)
        .map_err(|_| Error::Answer("it is not an enrolment"))?;
    if given.gateway_keys.is_empty() || given.gateway_keys.len() > MAX_GATEWAY_KEYS {
        return Err(Error::Answer("it names no gateway key, or too many"));
    }
    if given.witness.len() > MAX_KEY_TEXT {
        return Err(Error::Answer("its witness's key is too long"));
    }
    check_ca(&given.ca_pem, pin)?;
    let gateway = Gateway {
        url,
        host_id: given.host_id.clone(),
        ca_pem: given.ca_pem,
        gateway_keys: PinnedKeys::new(given.gateway_keys),
        witness: given.witness,
        host_key: fresh.key.public(),
        proxy,
    };
    fresh.store(&gateway)?;
    Ok(given.host_id)
}

/// The CA to be trusted from now on is the one of the token, and nothing beside it.
fn check_ca(pem: &str, pin: Digest) -> Result<(), Error> {
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    match (certificates.next(), certificates.next()) {
        (Some(Ok(ca)), None) if Digest::of(&ca) == pin => Ok(()),
        _ => Err(Error::Answer("its CA is not the one of the token")),
    }
}

/// Believes a server whose chain holds the CA with this digest and verifies under it.
#[derive(Debug)]
struct PinnedCa {
    pin: Digest,
    provider: Arc<CryptoProvider>,
    /// The verifier under that CA, once it has been seen.
    found: Mutex<Option<Arc<WebPkiServerVerifier>>>,
}

impl PinnedCa {
    fn new(pin: Digest) -> Self {
        Self {
            pin,
            provider: Arc::new(ring::default_provider()),
            found: Mutex::new(None),
        }
    }

    fn under(&self, ca: &CertificateDer<'_>) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(verifier) = &*found {
            return Ok(Arc::clone(verifier));
        }
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
        *found = Some(Arc::clone(&verifier));
        Ok(verifier)
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let ca = intermediates
            .iter()
            .find(|certificate| Digest::of(certificate) == self.pin)
            .ok_or(CertificateError::UnknownIssuer)?;
        self.under(ca)?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
