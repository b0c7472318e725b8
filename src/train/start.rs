//! Weights that a training starts from.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::data::Info;
use crate::net::files::{self, StateDict};
use crate::net::{Network, Params};

/// A file of weights, in place of random ones.
#[derive(Clone, Debug)]
pub struct Start {
    /// The file.
    pub file: PathBuf,
    /// The classes of its classifier.
    pub classes: Classes,
}

/// What is known of the classes that weights were trained on.
#[derive(Clone, Debug)]
pub enum Classes {
    /// Their names.
    Named(Vec<String>),
    /// A checkpoint's, whose data set cannot be read.
    Lost,
    /// Bare weights do not say.
    Unsaid,
}

impl Start {
    /// Why the classifier is not taken over for a data set, as far as its classes are concerned: those of a
    /// checkpoint must have the names of the data set's.
    pub fn other_classes(&self, info: &Info) -> Option<&'static str> {
        match &self.classes {
            Classes::Named(names) if *names != info.class_names => Some("they were trained on other classes"),
            Classes::Lost => Some("the classes that they were trained on are not known"),
            Classes::Named(_) | Classes::Unsaid => None,
        }
    }

    /// The tensors of the network whose features are known, with its classifier where that is what a new one
    /// is made of.
    ///
    /// # Errors
    /// A file that cannot be read, or that holds another network or a classifier that does not fit.
    pub fn network(&self, network: &Network, classes: usize, with_classifier: bool) -> Result<StateDict> {
        let path = || self.file.display().to_string();
        let dict = files::weights(&self.file)?;
        let params = Params::new(network, classes)?;
        if let (true, Some(why)) = (with_classifier, params.other_classifier(&dict)) {
            bail!(
                "{}: its classifier cannot be taken: {why}; take --classifier linear, cosine, ncm, ncm-cosine or knn",
                path()
            );
        }
        params.start_from(&dict, with_classifier).with_context(path)?;
        params.state_dict()
    }

    /// Takes the weights over, with the classifier or, where its classes or its shape do not fit, without:
    /// then that stays as it is. Says which.
    ///
    /// # Errors
    /// A file that cannot be read, or that holds another network.
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
