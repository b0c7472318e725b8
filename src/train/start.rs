//! The weights that a training starts from.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::data::Info;
use crate::net::files::{self, StateDict};
use crate::net::{Network, Params};

/// A file of weights to start from, in place of random ones.
#[derive(Clone, Debug)]
pub struct Start {
    /// The file.
    pub file: PathBuf,
    /// The classes that its classifier was trained on.
    pub classes: Classes,
}

/// What is known about the classes that weights were trained on.
#[derive(Clone, Debug)]
pub enum Classes {
    /// The names of the classes.
    Named(Vec<String>),
    /// Unknown, because the data set of the checkpoint cannot be read.
    Unreadable,
    /// Not stated: bare weights have no class names.
    NotStated,
}

impl Start {
    /// Returns the reason, if any, why the classes rule out reusing the classifier for a data set: the class
    /// names of a checkpoint must be those of the data set.
    pub fn other_classes(&self, info: &Info) -> Option<&'static str> {
        match &self.classes {
            Classes::Named(names) if *names != info.class_names => Some("they were trained on other classes"),
            Classes::Unreadable => Some("the classes that they were trained on are unknown"),
            Classes::Named(_) | Classes::NotStated => None,
        }
    }

    /// Returns the tensors of the network that computed some features. The classifier is taken from the file
    /// only if `with_classifier` is set, because a new one is then made from it.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or holds another network or a classifier that does not
    /// fit.
    pub fn network(&self, network: &Network, classes: usize, with_classifier: bool) -> Result<StateDict> {
        let path = || self.file.display().to_string();
        let dict = files::weights(&self.file)?;
        let params = Params::new(network, classes)?;
        if let (true, Some(why)) = (with_classifier, params.other_classifier(&dict)) {
            bail!(
                "{}: its classifier cannot be used: {why}; use --classifier linear, cosine, ncm, ncm-cosine or knn",
                path()
            );
        }
        params.start_from(&dict, with_classifier).with_context(path)?;
        params.state_dict()
    }

    /// Loads the weights. The classifier is included if its classes and its shape fit; otherwise the network
    /// keeps its freshly initialised classifier. Logs which of the two was done.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or holds another network.
    pub fn load(&self, params: &Params, info: &Info) -> Result<()> {
        let path = self.file.display();
        let dict = files::weights(&self.file)?;
        let why = self.other_classes(info).or_else(|| params.other_classifier(&dict));
        params.start_from(&dict, why.is_none()).with_context(|| path.to_string())?;
        match why {
            None => log::info!("{path}: starting from these weights, classifier included"),
            Some(why) => log::info!("{path}: starting from these weights with a new classifier: {why}"),
        }
        Ok(())
    }
}
