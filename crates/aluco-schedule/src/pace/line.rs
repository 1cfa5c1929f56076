//! A straight line through measurements that age.

/// What a measurement keeps of its weight with each one after it: the last twenty or so count.
const KEEP: f64 = 0.95;

/// What it keeps with each step in which nothing could be measured.
const KEEP_UNMEASURED: f64 = 0.98;

/// How far outside of what is usual a measurement counts in full, in usual deviations.
const CLIP_DEVIATIONS: f64 = 3.0;

/// So many measurements are doubted as long as there are no more.
const DOUBTED_SAMPLES: u32 = 4;

/// The least deviation that is taken for usual, relative to the value.
const DEVIATION_MIN: f64 = 0.05;

/// The slope that is assumed as long as `x` did not vary, counts like a variation of `x` by this part of its mean.
const PRIOR_VARIATION: f64 = 0.1;

/// What slope to assume as long as `x` did not vary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prior {
    /// None: `y` does not depend on `x`.
    Flat,
    /// `y` is proportional to `x`.
    Proportional,
}

/// A line `y = intercept + slope · x`, fitted by least squares with weights that fade. Slope and intercept are never negative.
#[derive(Debug, Clone)]
pub(super) struct Line {
    prior: Prior,
    samples: u32,
    weight: f64,
    x_mean: f64,
    y_mean: f64,
    x_variance: f64,
    covariance: f64,
    /// How far measurements usually lie from the line.
    deviation: f64,
}

impl Line {
    pub(super) fn new(prior: Prior) -> Self {
        Self {
            prior,
            samples: 0,
            weight: 0.0,
            x_mean: 0.0,
            y_mean: 0.0,
            x_variance: 0.0,
            covariance: 0.0,
            deviation: 0.0,
        }
    }

    /// Measurements so far.
    pub(super) fn samples(&self) -> u32 {
        self.samples
    }

    /// Takes a measurement. One that lies far off is moved nearer, so that a single hiccup moves nothing much; if more follow, what is
    /// usual widens and they are believed. `beside` is what else was measured with `y`: noise is in proportion to both together.
    ///
    /// There is nothing that a first one could lie far off from. It was a hiccup, and is forgotten, if soon after it no fewer take half as long.
    pub(super) fn observe(&mut self, x: f64, y: f64, beside: f64) {
        let mut y = y;
        let is_halved = beside + y < 0.5 * (beside + self.y_mean);
        if self.samples <= DOUBTED_SAMPLES && x >= self.x_mean && is_halved {
            let samples = self.samples;
            *self = Self {
                samples,
                ..Self::new(self.prior)
            };
        }
        if self.weight > 0.0 {
            let expected = self.at(x);
            let usual = self.deviation.max(DEVIATION_MIN * (beside + expected));
            // What is known from long ago is no reason to doubt what is measured now.
            let age = 1.0 / ((1.0 - KEEP) * self.weight);
            let most = CLIP_DEVIATIONS * usual * age;
            let residual = (y - expected).clamp(-most, most);
            y = expected + residual;
            self.deviation += 0.2 * (residual.abs() - self.deviation);
        }
        self.samples = self.samples.saturating_add(1);
        self.weight = KEEP * self.weight + 1.0;
        let share = 1.0 / self.weight;
        let (dx, dy) = (x - self.x_mean, y - self.y_mean);
        self.x_mean += share * dx;
        self.y_mean += share * dy;
        self.x_variance = (1.0 - share) * (self.x_variance + share * dx * dx);
        self.covariance = (1.0 - share) * (self.covariance + share * dx * dy);
    }

    /// Notes a step in which nothing could be measured.
    pub(super) fn fade(&mut self) {
        self.weight *= KEEP_UNMEASURED;
    }

    /// The value of the line at `x`, not negative.
    pub(super) fn at(&self, x: f64) -> f64 {
        (self.y_mean + self.slope() * (x - self.x_mean)).max(0.0)
    }

    /// Where the line reaches `y`.
    pub(super) fn reaches(&self, y: f64) -> f64 {
        self.x_mean + (y - self.y_mean) / self.slope().max(f64::MIN_POSITIVE)
    }

    fn slope(&self) -> f64 {
        if self.x_mean <= 0.0 {
            return 0.0;
        }
        let through_origin = self.y_mean.max(0.0) / self.x_mean;
        let prior = match self.prior {
            Prior::Flat => 0.0,
            Prior::Proportional => through_origin,
        };
        let trust = (PRIOR_VARIATION * self.x_mean).powi(2);
        let slope = (self.covariance + trust * prior) / (self.x_variance + trust);
        // Not steeper than through the origin: the intercept is a fixed cost. And never quite flat where it must be solved for `x`.
        slope.clamp(0.05 * prior, through_origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_with_its_intercept() {
        let mut line = Line::new(Prior::Proportional);
        for step in 0..200 {
            let x = f64::from(20 + step % 50);
            line.observe(x, 3.0 + 0.5 * x, 0.0);
        }
        assert!((line.at(100.0) - 53.0).abs() < 1.5, "{}", line.at(100.0));
        assert!((line.reaches(28.0) - 50.0).abs() < 1.5);
    }

    #[test]
    fn without_variation_the_prior_decides() {
        let (mut flat, mut proportional) = (Line::new(Prior::Flat), Line::new(Prior::Proportional));
        for _ in 0..20 {
            flat.observe(4.0, 8.0, 0.0);
            proportional.observe(4.0, 8.0, 0.0);
        }
        assert!((flat.at(2.0) - 8.0).abs() < 1e-9);
        assert!((proportional.at(2.0) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn one_hiccup_moves_little_and_a_change_is_followed() {
        let mut line = Line::new(Prior::Flat);
        for _ in 0..50 {
            line.observe(1.0, 10.0, 0.0);
        }
        line.observe(1.0, 1000.0, 0.0);
        assert!(line.at(1.0) < 15.0, "{}", line.at(1.0));
        for _ in 0..60 {
            line.observe(1.0, 20.0, 0.0);
        }
        assert!((18.0..22.0).contains(&line.at(1.0)), "{}", line.at(1.0));
    }

    #[test]
    fn a_hiccup_at_the_very_beginning_is_forgotten() {
        for hiccup in [100.0, 1000.0] {
            let mut line = Line::new(Prior::Proportional);
            line.observe(32.0, hiccup, 1.0);
            // A smaller one may well be so much faster.
            line.observe(8.0, 2.0, 1.0);
            line.observe(32.0, 8.0, 1.0);
            assert!((line.at(32.0) - 8.0).abs() < 1e-9, "{}", line.at(32.0));
            assert_eq!(line.samples(), 3);
        }
    }
}
