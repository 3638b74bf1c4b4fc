//! The files of a client, written by one of two writers of the testkit from what `openssl` made.

use std::path::Path;

use certsource_testkit::{AgentFiles, KubeletDir, Steps, TestDir};

use crate::openssl::Minted;

/// Who writes the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// A volume of Kubernetes: all files in one step.
    Kubelet,
    /// consul-template and its kin: each file is renamed over, one after the other.
    Agent,
}

/// `ca.crt`, `tls.crt` and `tls.key` in a directory.
#[derive(Debug)]
pub enum Disk {
    /// By [`Writer::Kubelet`].
    Kubelet(KubeletDir),
    /// By [`Writer::Agent`].
    Agent(AgentFiles),
}

impl Disk {
    /// A new directory with these files.
    pub fn new(writer: Writer, trust: &str, identity: &Minted) -> Self {
        let dir = TestDir::new().unwrap();
        let disk = match writer {
            Writer::Kubelet => Self::Kubelet(KubeletDir::from_dir(dir)),
            Writer::Agent => Self::Agent(AgentFiles::from_dir(dir)),
        };
        disk.write(trust, identity);
        disk
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        match self {
            Self::Kubelet(dir) => dir.path(),
            Self::Agent(files) => files.path(),
        }
    }

    /// Writes what differs, step by step.
    pub fn steps(&self, trust: &str, identity: &Minted) -> Steps {
        let files = [("ca.crt", trust), ("tls.crt", &identity.certificate), ("tls.key", &identity.key)];
        match self {
            Self::Kubelet(dir) => dir.write_steps(files).unwrap(),
            Self::Agent(agent) => agent.render_steps(files).unwrap(),
        }
    }

    /// Writes what differs.
    pub fn write(&self, trust: &str, identity: &Minted) {
        self.steps(trust, identity).finish().unwrap();
    }
}
